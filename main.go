package main

import _ "github.com/pin/tftp/v3"

func main() {}
