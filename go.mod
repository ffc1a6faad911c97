module flytftp

go 1.26.5

require (
	github.com/pin/tftp/v3 v3.2.0
	golang.org/x/sys v0.49.0
)

require golang.org/x/net v0.62.0
