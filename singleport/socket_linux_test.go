package singleport

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

func openOne(addr string) (*kernelSocket, error) {
	at, err := parseAddr(addr)
	if err != nil {
		return nil, err
	}
	sockets, err := openSockets(at, 1)
	if err != nil {
		return nil, err
	}
	return sockets[0].(*kernelSocket), nil
}

// Windows arrive block by block, whether the kernel cuts them, or cannot, or refuses when it is
// asked to.
func TestSocketSendsWindows(t *testing.T) {
	for _, c := range []struct {
		name       string
		uncut      bool
		mtu        int  // of loopback; 0 leaves what it is
		uncutAfter bool // whether the transfer with blocks of 2,000 bytes is not cut afterwards
	}{
		{"as the kernel can", false, 0, false},
		{"one by one", true, 0, true},
		{"refused for its size", false, 1500, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.mtu > 0 {
				ownLoopback(t, c.mtu)
			}
			s, err := openOne("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			client.SetReadBuffer(4 << 20)
			to := route{client: endpointAt(client.LocalAddr().(*net.UDPAddr).AddrPort())}
			for _, w := range []struct{ count, blockSize, bytes int }{
				{1, 512, 512}, {1, 512, 0}, {2, 2000, 4000}, {3, 2000, 4001}, {70, 1428, 70 * 1428}, {64, 8, 64*8 - 8}, {200, 8, 200*8 - 1}, {3, 30000, 90000},
			} {
				data := content(w.bytes)
				owner := &Transfer{route: to, uncut: c.uncut, window: window{terms: terms{blockSize: w.blockSize}}}
				for sent := 0; sent < w.count; {
					n := min(s.space(owner), w.count-sent)
					s.sendBlocks(blocks{owner, uint16(65530 + sent), n, n, data[sent*w.blockSize : min((sent+n)*w.blockSize, len(data))]})
					if !s.flush(func(*Transfer, int, int) { t.Error("the socket is full") }) {
						t.Fatal("unsent blocks")
					}
					sent += n
				}
				if w.blockSize == 2000 && w.count > 1 && owner.uncut != c.uncutAfter {
					t.Errorf("%+v: uncut afterwards: %v", w, owner.uncut)
				}
				b := make([]byte, 65536)
				for i := range w.count {
					client.SetReadDeadline(time.Now().Add(10 * time.Second))
					n, err := client.Read(b)
					if err != nil {
						t.Fatalf("%+v: block %d: %v", w, i, err)
					}
					want := binary.BigEndian.AppendUint16([]byte{0, opDATA}, uint16(65530+i))
					want = append(want, data[min(i*w.blockSize, len(data)):min((i+1)*w.blockSize, len(data))]...)
					if !bytes.Equal(b[:n], want) {
						t.Fatalf("%+v: block %d: %d bytes, want %d", w, i, n, len(want))
					}
				}
			}
		})
	}
}

// ownLoopback gives the test's thread, which ends with the test, a network of its own.
func ownLoopback(t *testing.T, mtu int) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: nobody else gets the thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		testkit.Skip(t, "no network of its own: "+err.Error())
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	loopback, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	loopback.SetUint32(uint32(mtu))
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFMTU, loopback); err != nil {
		t.Fatal(err)
	}
	loopback.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, loopback); err != nil {
		t.Fatal(err)
	}
}

// On a wildcard socket a datagram is known by the address that it came to, and a broadcast is not
// taken for a request.
func TestSocketLocalAddress(t *testing.T) {
	ownLoopback(t, 65536)
	for _, c := range []struct{ listen, host string }{{"0.0.0.0:0", "127.0.0.7"}, {":0", "127.0.0.7"}, {":0", "::1"}} {
		s, err := openOne(c.listen)
		if err != nil {
			t.Fatal(err)
		}
		to := &net.UDPAddr{IP: net.ParseIP(c.host), Port: s.addr().Port}
		client, err := net.DialUDP("udp", nil, to)
		if err != nil {
			t.Fatal(err)
		}
		client.Write(requestOf("a", "octet"))
		r := next(t, s)
		if r.route.local != [16]byte(to.IP.To16()) || !bytes.Equal(r.data, requestOf("a", "octet")) {
			t.Errorf("%+v: local address %v, %q", c, net.IP(r.route.local[:]), r.data)
		}
		s.send(&r.route, []byte("answer"), nil)
		s.flush(nil)
		b := make([]byte, 100)
		client.SetReadDeadline(time.Now().Add(10 * time.Second))
		// A connected client takes answers from the address alone that it asked.
		if n, err := client.Read(b); err != nil || string(b[:n]) != "answer" {
			t.Errorf("%+v: %q %v", c, b[:n], err)
		}
		client.Close()
		s.close()
	}

	s, err := openOne("0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	client, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.WriteToUDP(requestOf("a", "octet"), &net.UDPAddr{IP: net.IPv4(127, 255, 255, 255), Port: s.addr().Port}); err != nil {
		t.Fatal(err)
	}
	if r := next(t, s); len(r.data) != 0 {
		t.Errorf("a broadcast was taken for %q", r.data)
	}
}

// next waits for a datagram.
func next(t *testing.T, s *kernelSocket) received {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if n, _ := s.receive(s.fd); n > 0 {
			return s.in.received[0]
		}
	}
	t.Fatal("nothing arrived")
	return received{}
}

// Several sockets share a port, but not with another server.
func TestSocketsShareAPort(t *testing.T) {
	t.Run("lone address", func(t *testing.T) { share(t, "127.0.0.1:0") })
	t.Run("every address", func(t *testing.T) { share(t, ":0") })
}

func share(t *testing.T, addr string) {
	at, err := parseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := openSockets(at, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		if v6 := s.(*kernelSocket).v6; v6 != (at.IP == nil) {
			t.Errorf("IPv6: %v", v6)
		}
	}
	for _, s := range sockets {
		defer s.close()
		if s.addr().Port != sockets[0].addr().Port {
			t.Errorf("ports %d and %d", s.addr().Port, sockets[0].addr().Port)
		}
	}
	for _, count := range []int{1, 2} {
		others, err := openSockets(sockets[0].addr(), count)
		if err == nil {
			t.Errorf("%d more sockets joined", count)
		}
		for _, s := range others {
			s.close()
		}
	}
}

// told collects what a socket tells.
type told struct {
	closed chan endpoint
	quoted chan []byte
}

func (l *told) receive([]received) {}
func (l *told) unreachable(client endpoint, quoted []byte) {
	l.closed <- client
	l.quoted <- bytes.Clone(quoted)
}

// A client's host that refuses DATA is heard, with the block that it refused, and other datagrams
// leave all the same.
func TestSocketHearsOfClosedPorts(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		s, err := openOne(addr)
		if err != nil {
			t.Fatal(err)
		}
		l := &told{make(chan endpoint, 16), make(chan []byte, 16)}
		go s.serve(l)
		host := "127.0.0.1"
		if addr == "[::1]:0" {
			host = "::1"
		}
		gone, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)})
		if err != nil {
			t.Fatal(err)
		}
		client := endpointAt(netip.MustParseAddrPort(gone.LocalAddr().String()))
		gone.Close()
		owner := &Transfer{route: route{client: client}, window: window{terms: terms{blockSize: 512}}}
		s.sendBlocks(blocks{owner, 7, 1, 1, make([]byte, 512)})
		s.flush(nil)
		if got, quoted := <-l.closed, <-l.quoted; got != client || !bytes.HasPrefix(quoted, []byte{0, opDATA, 0, 7}) {
			t.Errorf("%s: %v refused %q", addr, got.addrPort(), quoted[:min(len(quoted), 8)])
		}
		s.close()
	}
}

// Datagrams may be cut on their way: some ROMs discard those that may not be.
func TestSocketLetsDatagramsBeCut(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", ":0"} {
		s, err := openOne(addr)
		if err != nil {
			t.Fatal(err)
		}
		if mode, err := unix.GetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER); err != nil || mode != unix.IP_PMTUDISC_DONT {
			t.Errorf("%s: IP_MTU_DISCOVER is %d, %v", addr, mode, err)
		}
		s.close()
	}
}

// A request to a multicast address is not answered, one to a link-local address by the interface
// that it came to.
func TestLocalAddressOfIPv6(t *testing.T) {
	for _, c := range []struct {
		ip   string
		one  bool
		link uint32
	}{{"ff02::1", false, 0}, {"fe80::1", true, 7}, {"2001:db8::1", true, 0}} {
		control, data := appendControl(make([]byte, 0, controlSize), unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		copy(data, netip.MustParseAddr(c.ip).AsSlice())
		binary.NativeEndian.PutUint32(data[16:], 7)
		var r route
		if one := new(kernelSocket).readControl(&r, control); one != c.one || r.link != c.link || netip.AddrFrom16(r.local).String() != c.ip {
			t.Errorf("%s: %v, %+v", c.ip, one, r)
		}
		if r.link == 0 {
			continue
		}
		// The client's own address is a global one.
		s := &kernelSocket{}
		r.client = endpointAt(netip.MustParseAddrPort("[2001:db8::2]:7"))
		answer := s.appendLocal(make([]byte, 0, controlSize), &r)
		var link uint32
		eachControl(answer, func(_ *unix.Cmsghdr, data []byte) { link = binary.NativeEndian.Uint32(data[16:]) })
		if link != 7 {
			t.Errorf("the answer leaves by interface %d", link)
		}
	}
}

// sharedSockets is how many sockets tests have share an address.
const sharedSockets = 3

// countingListener counts what arrives.
type countingListener struct{ received chan int }

func (l countingListener) receive(batch []received)     { l.received <- len(batch) }
func (l countingListener) unreachable(endpoint, []byte) {}

// Every datagram that does not fit into the socket's buffer is counted, on sockets that are told
// the address that was asked, and on others.
func TestDroppedDatagramsAreCounted(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", ":0"} {
		s, err := openOne(addr)
		if err != nil {
			t.Fatal(err)
		}
		const least = 1
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, least); err != nil {
			t.Fatal(err)
		}
		client, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: s.addr().Port})
		if err != nil {
			t.Fatal(err)
		}
		const sent = 100
		for range sent {
			client.Write(make([]byte, 500))
		}
		l := countingListener{make(chan int, 2*sent)}
		served := make(chan error, 1)
		go func() { served <- s.serve(l) }()
		arrived := <-l.received
		client.Write(make([]byte, 4)) // it tells of the others
		for deadline := time.After(30 * time.Second); s.dropped() == 0 || arrived+int(s.dropped()) < sent+1; {
			select {
			case n := <-l.received:
				arrived += n
			case <-deadline:
				t.Fatalf("%s: %d datagrams arrived, %d were dropped, of %d", addr, arrived, s.dropped(), sent+1)
			}
		}
		if arrived+int(s.dropped()) != sent+1 || arrived < 2 {
			t.Errorf("%s: %d datagrams arrived, %d were dropped, of %d", addr, arrived, s.dropped(), sent+1)
		}
		client.Close()
		s.close()
		<-served
	}
}
