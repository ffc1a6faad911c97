# Takes the place of ../addresses.tf. Each plan then asks Fly.io for the addresses, and needs fly,
# logged in, and jq.

variable "app" {
  description = "The name of the application at Fly.io"
  type        = string
}

data "external" "fly" {
  # A failure of fly leaves jq without input, and this program without an answer, which is an error.
  program = ["sh", "-c", "fly ips list --json --app \"$0\" | jq '{addresses: [.[] | select(.Type == \"v4\").Address] | join(\" \")}'", var.app]
}

locals {
  addresses = toset(compact(split(" ", data.external.fly.result.addresses)))
}
