// Command bare is a server written as the documentation of github.com/pin/tftp suggests. Compared
// with it, the benchmark shows what singleport adds.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pin/tftp/v3"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: bare ADDRESS FOLDER BLKSIZE")
		os.Exit(2)
	}
	blockSize, err := strconv.Atoi(os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bare: BLKSIZE is a number")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2], blockSize); err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

// serve grants blksize up to blockSize. The library allocates that much for each datagram it reads.
func serve(address, folder string, blockSize int) error {
	addr, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "serving", conn.LocalAddr())
	server := tftp.NewServer(func(name string, rf io.ReaderFrom) error {
		file, err := os.Open(filepath.Join(folder, filepath.Clean("/"+name)))
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = rf.ReadFrom(file)
		return err
	}, nil)
	server.EnableSinglePort()
	server.SetBlockSize(blockSize)
	server.SetTimeout(5 * time.Second)
	return server.Serve(conn)
}
