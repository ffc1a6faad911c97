# tofu test, or terraform test, in the folder record.

variables {
  zone      = "example.org."
  name      = "tftp"
  addresses = ["137.66.0.1"]
}

run "record" {
  command = plan

  assert {
    condition     = output.domain == "tftp.example.org" && output.ttl == 300 && output.addresses == toset(["137.66.0.1"])
    error_message = "The record is not what the variables say."
  }
  assert {
    condition     = output.check == "dig +short tftp.example.org. A tftp.example.org. AAAA"
    error_message = "The check does not ask for the record."
  }
}

run "names_with_several_labels" {
  command = plan
  variables {
    zone = "b-2.example.org."
    name = "tftp.lab-1"
  }
  assert {
    condition     = output.domain == "tftp.lab-1.b-2.example.org"
    error_message = "The domain is not name and zone."
  }
}

run "several_addresses_once_each" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "137.66.0.2", "137.66.0.1"]
    ttl       = 30
  }
  assert {
    condition     = length(output.addresses) == 2 && output.ttl == 30
    error_message = "There must be two addresses."
  }
}

# Just outside the networks that are not public.
run "public_neighbours" {
  command = plan
  variables {
    addresses = [
      "1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
      "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.88.98.255",
      "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255",
      "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255",
    ]
    ttl = 86400
  }
}

run "no_address" {
  command = plan
  variables {
    addresses = []
  }
  expect_failures = [var.addresses]
}

run "ipv6" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "2a09:8280:1::1"]
  }
  expect_failures = [var.addresses]
}

run "a_network" {
  command = plan
  variables {
    addresses = ["137.66.0.0/24"]
  }
  expect_failures = [var.addresses]
}

run "a_leading_zero" {
  command = plan
  variables {
    addresses = ["137.66.0.010"]
  }
  expect_failures = [var.addresses]
}

run "zone_without_dot" {
  command = plan
  variables {
    zone = "example.org"
  }
  expect_failures = [var.zone]
}

run "name_with_dot" {
  command = plan
  variables {
    name = "tftp."
  }
  expect_failures = [var.name]
}

run "no_name" {
  command = plan
  variables {
    name = ""
  }
  expect_failures = [var.name]
}

run "short_ttl" {
  command = plan
  variables {
    ttl = 29
  }
  expect_failures = [var.ttl]
}

run "broken_ttl" {
  command = plan
  variables {
    ttl = 300.5
  }
  expect_failures = [var.ttl]
}

run "not_public_0_255_255_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "0.255.255.255"]
  }
  expect_failures = [var.addresses]
}

run "not_public_10_0_0_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "10.0.0.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_10_255_255_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "10.255.255.255"]
  }
  expect_failures = [var.addresses]
}

run "not_public_100_64_0_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "100.64.0.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_100_127_255_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "100.127.255.255"]
  }
  expect_failures = [var.addresses]
}

run "not_public_127_0_0_1" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "127.0.0.1"]
  }
  expect_failures = [var.addresses]
}

run "not_public_169_254_0_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "169.254.0.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_172_16_0_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "172.16.0.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_172_31_255_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "172.31.255.255"]
  }
  expect_failures = [var.addresses]
}

run "not_public_192_0_0_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "192.0.0.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_192_0_2_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "192.0.2.255"]
  }
  expect_failures = [var.addresses]
}

run "not_public_192_88_99_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "192.88.99.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_192_168_0_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "192.168.0.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_192_168_255_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "192.168.255.255"]
  }
  expect_failures = [var.addresses]
}

run "not_public_198_18_0_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "198.18.0.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_198_19_255_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "198.19.255.255"]
  }
  expect_failures = [var.addresses]
}

run "not_public_198_51_100_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "198.51.100.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_203_0_113_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "203.0.113.255"]
  }
  expect_failures = [var.addresses]
}

run "not_public_224_0_0_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "224.0.0.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_239_255_255_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "239.255.255.255"]
  }
  expect_failures = [var.addresses]
}

run "not_public_240_0_0_0" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "240.0.0.0"]
  }
  expect_failures = [var.addresses]
}

run "not_public_255_255_255_255" {
  command = plan
  variables {
    addresses = ["137.66.0.1", "255.255.255.255"]
  }
  expect_failures = [var.addresses]
}
