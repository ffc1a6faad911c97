package singleport

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// script feeds a fuzzer's bytes to the server as datagrams of four clients, each step led by one
// byte: two bits choose the client, three what it does.
type script struct {
	n       *rig
	clients [4]*port
	bytes   []byte
}

func (s *script) next(n int) []byte {
	n = min(n, len(s.bytes))
	head := s.bytes[:n]
	s.bytes = s.bytes[n:]
	return head
}

func (s *script) number() int {
	b := s.next(1)
	if len(b) == 0 {
		return 0
	}
	return int(b[0])
}

func (s *script) run() {
	for step := 0; len(s.bytes) > 0 && step < 300; step++ {
		lead := s.number()
		client := s.clients[lead&3]
		switch lead >> 2 & 7 {
		case 0:
			client.send(s.next(s.number()))
		case 1:
			name := []string{"a", "b", "c", "absent"}[s.number()&3]
			request := requestOf(name, []string{"octet", "NetASCII", "mail", ""}[s.number()&3])
			client.send(append(request, s.next(s.number()&63)...))
		case 2:
			options := []string{}
			for _, option := range []string{"blksize", "windowsize", "timeout", "tsize"} {
				if n := s.number(); n != 0 {
					options = append(options, option, fmt.Sprint(n&15*(n>>4)))
				}
			}
			client.send(requestOf("b", "octet", options...))
		case 3:
			client.send(ackOf(s.number() << 8 >> (s.number() & 15)))
		case 4: // what a client would acknowledge
			for len(client.arrived) > 0 {
				if data := <-client.arrived; len(data) >= 4 && data[1] == wireDATA {
					client.send(ackOf(int(binary.BigEndian.Uint16(data[2:]))))
				} else if data[1] == wireOACK {
					client.send(ackOf(0))
				}
			}
		case 5:
			client.send(errorOf(uint16(s.number()), string(s.next(s.number()))))
		case 6: // longer than what the engine can take
			long := make([]byte, 500+s.number()*256)
			copy(long, s.next(s.number()&15))
			client.send(long)
		case 7:
			time.Sleep(time.Duration(s.number()) * 20 * time.Millisecond)
		}
		if lead&0x80 != 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// Whatever arrives in whatever order: no panic, no datagram that the link objects to (an
// unconfirmed client gets at most three, a request at most one ERROR), nothing left at the end, and
// a good client is served during it all.
func FuzzDatagrams(f *testing.F) {
	f.Add([]byte("\x84\x00\x00\x00\x90\x90\x90\x90"), uint8(0))
	f.Add([]byte("\x88\x80\x22\x00\x11\x90\x90\x90\x1c\xff\x1c\xff\x90"), uint8(3))
	f.Add([]byte("\x84\x01\x00\x18\x02\x00\x04\x84\x01\x00\x14\x00\x04stop"), uint8(1))
	f.Add([]byte("\x85\x03\x00\x00\x86\x01\x02\x00\x87\x01\x03\x00\x00\x08\x00\x02a\x00octet\x00"), uint8(7))
	f.Add([]byte("$00\x00$)1\x00$20\x00&120"), uint8('k'))
	files := map[string][]byte{"a": nil, "b": content(70_000), "c": content(1024)}
	f.Fuzz(func(t *testing.T, steps []byte, batch uint8) {
		inRig(t, files, generous, uint64(len(steps)), func(t *testing.T, n *rig) {
			n.batch = 1 + int(batch&15)
			s := script{n: n, bytes: steps}
			for i := range s.clients {
				s.clients[i] = n.client(i, 2000, 4096)
			}
			s.run()
			m := model{name: "good client", blockSize: 1428, requests: seconds(1), quiet: seconds(1), deaf: true}
			m.fetchAll(n, 100, "b", 1)
			n.stop(time.Second)
		})
	})
}
