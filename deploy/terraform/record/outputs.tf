# This module needs no provider: it checks the variables, and says what follows from them.

output "zone" {
  value = var.zone
}

output "name" {
  value = var.name
}

output "ttl" {
  value = var.ttl
}

output "addresses" {
  value = var.addresses
}

output "domain" {
  value = trimsuffix("${var.name}.${var.zone}", ".")
}

output "check" {
  value = "dig +short ${var.name}.${var.zone} A ${var.name}.${var.zone} AAAA"
}
