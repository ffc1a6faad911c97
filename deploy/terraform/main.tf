module "record" {
  source    = "./record"
  zone      = var.zone
  name      = var.name
  ttl       = var.ttl
  addresses = local.addresses
}

# No AAAA record: Fly.io has no public IPv6 for UDP.
resource "dns_a_record_set" "tftp" {
  zone      = module.record.zone
  name      = module.record.name
  ttl       = module.record.ttl
  addresses = module.record.addresses
}
