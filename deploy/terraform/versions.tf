terraform {
  required_version = ">= 1.6"
  required_providers {
    dns = {
      source  = "hashicorp/dns"
      version = "~> 3.4"
    }
  }
}

# The server and its key are in the environment, as DNS_UPDATE_*. A variable would put the key into
# saved plans.
provider "dns" {}
