# record/variables.tf has the rules for these.

variable "zone" {
  description = "The zone, with the final dot, such as example.org."
  type        = string
}

variable "name" {
  description = "The name in the zone, without a final dot, such as tftp"
  type        = string
}

variable "ttl" {
  description = "Seconds that resolvers may keep the record"
  type        = number
  default     = 300
}
