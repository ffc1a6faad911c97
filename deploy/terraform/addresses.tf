# fly/addresses.tf may take the place of this file: it asks Fly.io at each plan.

variable "addresses" {
  description = "The dedicated IPv4 addresses of the application"
  type        = set(string)
}

locals {
  addresses = var.addresses
}
