package main

import (
	"bytes"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"flytftp/internal/testkit"
)

func TestRelayDelaysAndFollowsThePort(t *testing.T) {
	file := contents(10_000)
	const roundTrip = 30 * time.Millisecond
	server := multiPort(t, file, 1000, 1, func(int) bool { return false })
	between, err := newRelay(server, link{roundTrip: roundTrip}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer between.close()
	l := load{server: between.addr, name: "file", content: file, blockSize: 1000, windowSize: 1, clients: 1, each: 1,
		limit: 20 * time.Second}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// RRQ and OACK, then eleven blocks, the last of them empty.
	if least := 12 * roundTrip; len(o.latencies) != 1 || o.latencies[0] < least {
		t.Errorf("transfers %v, failures %v; the link allows no less than %v", o.latencies, o.failures, least)
	}
}

func TestTransfersSurviveALossyRelay(t *testing.T) {
	testkit.SkipIfShort(t)
	file := contents(20_000)
	server := multiPort(t, file, 1000, 2, func(int) bool { return false })
	between, err := newRelay(server, link{roundTrip: 2 * time.Millisecond, loss: 0.04}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer between.close()
	l := load{server: between.addr, name: "file", content: file, blockSize: 1000, windowSize: 2, clients: 8, each: 1,
		limit: time.Minute}
	o, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if o.failed() != 0 || len(o.latencies) != 8 {
		t.Errorf("%d whole, failures %v, %d cut", len(o.latencies), o.failures, o.cut)
	}
	if percentile(o.latencies, 100) < clientTimer {
		t.Error("no transfer waited for a timer: the relay loses nothing")
	}
}

const testRate = 1_000_000 // bits a second: 1,250 bytes take 10 ms

// Datagrams of 1,250 bytes with their headers arrive in virtual time, in ms, and leave at the rate.
func TestLinkRate(t *testing.T) {
	const ms = int64(time.Millisecond)
	for _, c := range []struct {
		name    string
		link    link
		arrived []int64
		left    []int64 // -1 is dropped
	}{
		{"no rate", link{roundTrip: 20 * time.Millisecond}, []int64{0, 0, 5}, []int64{10, 10, 15}},
		{"one after another", link{rate: testRate}, []int64{0, 0, 0}, []int64{10, 20, 30}},
		{"with a round trip", link{rate: testRate, roundTrip: 8 * time.Millisecond}, []int64{0, 0}, []int64{14, 24}},
		{"idle in between", link{rate: testRate}, []int64{0, 50, 55}, []int64{10, 60, 70}},
		{"not in order", link{rate: testRate}, []int64{50, 45}, []int64{60, 70}},
		{"endless queue", link{rate: testRate}, make([]int64, 1000), nil},
		{"full queue", link{rate: testRate, queue: 25 * time.Millisecond},
			[]int64{0, 0, 0, 0, 0, 5, 5}, []int64{10, 20, 30, -1, -1, 40, -1}},
		{"queue that drains", link{rate: testRate, queue: 10 * time.Millisecond},
			[]int64{0, 0, 0, 9, 10, 40}, []int64{10, 20, -1, -1, 30, 50}},
	} {
		var d direction
		for i, arrived := range c.arrived {
			left, ok := d.pass(&c.link, arrived*ms, 1250-ipHeaders)
			want := int64(10 * (i + 1))
			if c.left != nil {
				want = c.left[i]
			}
			if ok != (want >= 0) || ok && left != want*ms {
				t.Errorf("%s: datagram %d leaves at %d ns, %v; want %d ms", c.name, i, left, ok, want)
			}
		}
	}
}

// A file over the relay cannot be faster than its rate, and each way is as slow.
func TestRelayRate(t *testing.T) {
	file := contents(10_000)
	server := multiPort(t, file, 1000, 16, func(int) bool { return false })
	path := link{rate: testRate}
	between, err := newRelay(server, path, 1)
	if err != nil {
		t.Fatal(err)
	}
	l := load{server: between.addr, name: "file", content: file, blockSize: 1000, windowSize: 16, clients: 2, each: 1,
		limit: 30 * time.Second}
	o, err := l.run(t.Context())
	between.close()
	if err != nil {
		t.Fatal(err)
	}
	w := work{blockSize: 1000, fileSize: len(file), clients: 2, each: 1, link: path}
	if least := path.transmission(2 * (len(file) + 11*(4+ipHeaders))); w.ownTime() != least {
		t.Errorf("the link's own time is %v, want %v", w.ownTime(), least)
	}
	if len(o.latencies) != 2 || o.elapsed < w.ownTime() {
		t.Errorf("%d transfers, failures %v in %v; the link allows no less than %v",
			len(o.latencies), o.failures, o.elapsed, w.ownTime())
	}
	if between.traffic.data < 22 || between.traffic.cpu <= 0 || between.traffic.dropped != 0 {
		t.Errorf("traffic %+v", between.traffic)
	}
}

// A queue that holds one block of a window loses the others, and the transfer recovers block by
// block.
func TestRelayQueue(t *testing.T) {
	testkit.SkipIfShort(t)
	file := contents(3_500)
	server := multiPort(t, file, 1000, 4, func(int) bool { return false })
	between, err := newRelay(server, link{rate: testRate, queue: time.Millisecond}, 1)
	if err != nil {
		t.Fatal(err)
	}
	l := load{server: between.addr, name: "file", content: file, blockSize: 1000, windowSize: 4, clients: 1, each: 1,
		limit: 30 * time.Second}
	o, err := l.run(t.Context())
	between.close()
	if err != nil {
		t.Fatal(err)
	}
	if len(o.latencies) != 1 || between.traffic.dropped == 0 || between.traffic.again == 0 {
		t.Errorf("%d transfers, failures %v, %d cut, traffic %+v", len(o.latencies), o.failures, o.cut, between.traffic)
	}
}

func TestRelayCountsBlocksSentTwice(t *testing.T) {
	r, f := &relay{}, &flow{newest: 65533}
	for _, block := range []uint16{65534, 65535, 0, 65535, 0, 1, 2, 1} {
		r.count(f, []byte{0, opData, byte(block >> 8), byte(block), 'x'})
	}
	r.count(f, []byte{0, opOACK, 0, 1})
	r.count(f, []byte{0, opData, 0})
	if r.traffic.data != 8 || r.traffic.again != 3 {
		t.Errorf("%d DATA, %d sent twice", r.traffic.data, r.traffic.again)
	}
}

// Runs of datagrams that leave as one are divided again.
func TestOutbox(t *testing.T) {
	receiver, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	sender, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sender)
	to := rawAddr(receiver.LocalAddr().(*net.UDPAddr).AddrPort())
	one, other := &flow{client: to}, &flow{client: to}
	var all []delayed
	for i, size := range []int{100, 100, 60, 60, 100, 1400, 1400, 1400, 7, 8, 1} {
		f := one
		if i == 6 {
			f = other
		}
		all = append(all, delayed{flow: f, data: contents(size)})
	}
	newOutbox(4).send(sender, all)
	buffer := make([]byte, 1<<16)
	for i, d := range all {
		receiver.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := receiver.Read(buffer)
		if err != nil || !bytes.Equal(buffer[:n], d.data) {
			t.Fatalf("datagram %d has %d bytes, %v; want %d", i, n, err, len(d.data))
		}
	}
}

func TestSameSize(t *testing.T) {
	one, other := &flow{}, &flow{}
	for _, c := range []struct {
		sizes []int // negative is of the other flow
		want  int
	}{
		{[]int{10}, 1}, {[]int{10, 10, 10}, 3}, {[]int{10, 10, 5, 5}, 3}, {[]int{10, 11}, 1}, {[]int{10, -10}, 1},
		{[]int{40000, 40000}, 1}, {[]int{32000, 32000, 32000}, 2}, {slices.Repeat([]int{10}, 100), segmentsMost},
	} {
		var all []delayed
		for _, size := range c.sizes {
			f := one
			if size < 0 {
				f, size = other, -size
			}
			all = append(all, delayed{flow: f, data: make([]byte, size)})
		}
		if got := sameSize(all); got != c.want {
			t.Errorf("sameSize(%v) = %d, want %d", c.sizes, got, c.want)
		}
	}
}
