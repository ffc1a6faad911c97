variable "zone" {
  description = "The zone, with the final dot, such as example.org."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\\.)+$", var.zone)) && length(var.zone) <= 254
    error_message = "The zone must be a domain in lower case with its final dot, such as example.org."
  }
}

variable "name" {
  description = "The name in the zone, without a final dot, such as tftp"
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$", var.name)) && length(var.name) <= 200
    error_message = "The name must be in lower case, relative to the zone and without a final dot, such as tftp"
  }
}

variable "ttl" {
  description = "Seconds that resolvers may keep the record"
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.ttl >= 30 && var.ttl <= 86400 && floor(var.ttl) == var.ttl
    error_message = "The ttl must be a whole number of seconds from 30 to 86400."
  }
}

variable "addresses" {
  description = "The dedicated IPv4 addresses of the application"
  type        = set(string)
  nullable    = false

  validation {
    condition     = length(var.addresses) > 0
    error_message = "There is no address: the application needs a dedicated IPv4 address (fly ips allocate-v4)."
  }

  validation {
    condition = alltrue([
      for address in var.addresses : can(regex("^(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}$", address))
    ])
    error_message = "Each address must be a plain IPv4 address: Fly.io has no public IPv6 for UDP."
  }

  # The networks of the IANA registry of special addresses, multicast, and what is reserved.
  validation {
    condition = alltrue([
      for pair in setproduct(var.addresses, [
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
      ]) : try(cidrsubnet("${pair[0]}/${split("/", pair[1])[1]}", 0, 0) != pair[1], true)
    ])
    error_message = "Each address must be public: clients outside cannot reach it."
  }
}
