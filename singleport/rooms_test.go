package singleport

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"flytftp/internal/testkit"
)

// inRoom is a client of the room's /24, or of its /56.
func (l *link) inRoom(i int, p uint16) *port {
	return l.open(endpoint{ip: netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}).As16(), port: p}, 64)
}

// roomOf has each client fetch a file at the same time, from one /24, and returns how
// long the last
// waited for its first answer. No client asks twice.
func roomOf(t *testing.T, n *rig, clients int, m model) time.Duration {
	var longest time.Duration
	var mu sync.Mutex
	var all sync.WaitGroup
	m.requests = seconds(100)
	m.deaf = true
	for i := range clients {
		all.Go(func() {
			began := time.Now()
			c := n.inRoom(i+1, uint16(3000+i))
			got, err := m.fetch(c, "a")
			if err != nil || !bytes.Equal(got, m.carried(n.files["a"])) {
				t.Errorf("client %d: %d bytes, %v", i, len(got), err)
			}
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, c.begun.Sub(began))
		})
	}
	all.Wait()
	return longest
}

// 250 machines of one /24 boot at the same moment, with default limits: none notices one.
func TestRoomBootsAtOnce(t *testing.T) {
	for _, name := range []string{"iPXE", "U-Boot", "EDK2", "tftp-hpa", "RFC 1350"} {
		trips := []time.Duration{20 * time.Millisecond, time.Millisecond, 100 * time.Millisecond}
		if testing.Short() {
			trips = trips[:1]
		}
		for _, trip := range trips {
			t.Run(fmt.Sprintf("%s, %v", name, trip), func(t *testing.T) {
				inRig(t, map[string][]byte{"a": content(40_000)}, Config{}, 1, func(t *testing.T, n *rig) {
					n.both(path{delay: trip / 2})
					n.batch = 32
					m := modelNamed(name)
					most := 3 * trip // OACKs, three at most
					if m.blockSize == 0 {
						most = 6 * trip // DATA, 52 at a time
					}
					most += 3 * queueLook
					longest := roomOf(t, n, 250, m)
					t.Logf("the last of 250 was answered after %v", longest)
					if longest > most {
						t.Errorf("the last was answered after %v, want %v", longest, most)
					}
				})
			})
		}
	}
}

// raspberryPi asks for files of which most are not there. It ends a probe for the size
// with an ERROR,
// asks again for the file, and takes one that is not answered within its second for absent.
func raspberryPi(n *rig, client int, names []string) (missed []string) {
	for i, name := range names {
		c := n.inRoom(client, uint16(2000+2*i))
		c.send(requestOf(name, "octet", "tsize", "0", "blksize", "1024"))
		data := c.expect(time.Second)
		there := len(data) > 1 && data[1] == wireOACK
		if there {
			c.send(errorOf(0, "probed"))
			c.close()
			m := model{name: "Raspberry Pi", blockSize: 1024, tsize: true, requests: seconds(1), quiet: seconds(100), deaf: true}
			c = n.inRoom(client, uint16(2001+2*i))
			got, err := m.fetch(c, name)
			there = err == nil && bytes.Equal(got, n.files[name])
		}
		c.close()
		if n.files[name] != nil && !there {
			missed = append(missed, name)
		}
	}
	return missed
}

// 80 Raspberry Pis of one /24 that are switched on within 3 s miss no file that is there.
func TestRoomOfRaspberryPis(t *testing.T) {
	files := map[string][]byte{}
	var names []string
	for _, name := range []string{"start4.elf", "config.txt", "fixup4.dat", "cmdline.txt", "bcm2711-rpi-4-b.dtb",
		"overlays/overlay_map.dtb", "kernel8.img", "initramfs8"} {
		files[name] = content(20_000 + len(name))
	}
	prefix := "0123abcd/"
	for _, name := range []string{"-start4.elf", "-start.elf", "start4.elf", "config.txt", "pieeprom.sig", "recover4.elf",
		"recovery.elf", "fixup4.dat", "vl805.sig", "bcm2711-rpi-4-b.dtb", "overlays/overlay_map.dtb", "dt-blob.bin", "cmdline.txt",
		"bootcfg.txt", "armstub8-gic.bin", "kernel8.img", "initramfs8"} {
		if name[0] == '-' {
			name = prefix + name[1:]
		}
		names = append(names, name)
	}
	for _, within := range []time.Duration{0, 3 * time.Second} {
		t.Run(fmt.Sprint(within), func(t *testing.T) {
			inRig(t, files, Config{}, 1, func(t *testing.T, n *rig) {
				n.both(path{delay: 500 * time.Microsecond})
				n.batch = 32
				var all sync.WaitGroup
				for i := range 80 {
					all.Go(func() {
						time.Sleep(within * time.Duration(i) / 80)
						if missed := raspberryPi(n, i+1, names); len(missed) > 0 {
							t.Errorf("number %d missed %q", i, missed)
						}
					})
				}
				all.Wait()
				t.Logf("%d requests got no answer", n.observer.refusals(RefusedRate))
			})
		})
	}
}

// A client that probes sizes is where it says, as one that acknowledges: it never runs dry.
func TestProbesDrawNothing(t *testing.T) {
	inRig(t, map[string][]byte{"a": content(1000)}, Config{}, 1, func(t *testing.T, n *rig) {
		for i := range 2000 {
			c := n.inRoom(i%200, uint16(2000+i))
			c.send(requestOf("a", "octet", "tsize", "0", "blksize", "1024"))
			if data := c.expect(time.Millisecond); len(data) < 2 || data[1] != wireOACK {
				t.Fatalf("probe %d received %q", i, data)
			}
			c.send(errorOf(0, "probed"))
			c.close()
		}
	})
}

// A flood is forged in a room's name, 400 requests a second. All 30 machines of the room
// that boot
// meanwhile are served when they ask for the second time, at the latest, and others in
// the network
// receive no more than is promised.
func TestFloodInARoomsName(t *testing.T) {
	for _, test := range []struct {
		name  string
		flood func(i int) []byte
	}{
		{"files", func(int) []byte { return requestOf("a", "octet") }},
		{"files with options", func(int) []byte { return requestOf("a", "octet", "tsize", "0", "blksize", "1432") }},
		{"absent", func(i int) []byte { return requestOf(fmt.Sprint("x", i), "octet") }},
		{"writes", func(int) []byte { return []byte("\x00\x02a\x00octet\x00") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			inRig(t, map[string][]byte{"a": content(40_000)}, Config{}, 1, func(t *testing.T, n *rig) {
				n.both(path{delay: 5 * time.Millisecond})
				own := map[endpoint]bool{}
				drawn := 0
				random := rand.New(rand.NewPCG(9, 6))
				done := make(chan struct{})
				var flooding sync.WaitGroup
				began := time.Now()
				n.mu.Lock()
				n.sent = func(to endpoint, data []byte) {
					if !own[to] {
						drawn += ipv4Headers + len(data)
					}
				}
				n.mu.Unlock()
				flooding.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-done:
							return
						case <-time.After(time.Second / 400):
						}
						host := netip.AddrFrom4([4]byte{198, 51, 100, byte(random.IntN(254))})
						e := endpoint{ip: host.As16(), port: uint16(10_000 + random.IntN(50_000))}
						n.mu.Lock()
						n.put(true, route{client: e, local: serverIP}, test.flood(i))
						n.mu.Unlock()
					}
				})
				time.Sleep(15 * time.Second) // by now the flood has what it can get
				first, second := 0, 0
				var room sync.WaitGroup
				var mu sync.Mutex
				for i := range 30 {
					c := n.inRoom(i+1, 2070)
					n.mu.Lock()
					own[c.endpoint] = true
					n.mu.Unlock()
					room.Go(func() {
						m := modelNamed([]string{"U-Boot", "tftp-hpa"}[i%2])
						asked := time.Now()
						got, err := m.fetch(c, "a")
						if err != nil || !bytes.Equal(got, n.files["a"]) {
							t.Errorf("client %d: %d bytes, %v", i, len(got), err)
						}
						mu.Lock()
						defer mu.Unlock()
						switch waited := c.begun.Sub(asked); {
						case waited < m.requests[0]:
							first++
						case waited < m.requests[0]+100*time.Millisecond:
							second++
						}
					})
				}
				room.Wait()
				close(done)
				flooding.Wait()
				time.Sleep(10 * time.Second)
				n.mu.Lock()
				defer n.mu.Unlock()
				most := 32768 + int(time.Since(began).Seconds()+1)*4096
				t.Logf("of 30 clients %d were served on their first request, %d on their second; the forged requests drew %d bytes, at most %d", first, second, drawn, most)
				if first+second != 30 {
					t.Errorf("%d of 30 were served on their second request", first+second)
				}
				if drawn > most {
					t.Errorf("the forged requests drew %d bytes, want at most %d", drawn, most)
				}
			})
		})
	}
}

// docs/security.md has the figures of the queue.
func TestDocsQueue(t *testing.T) {
	text := testkit.Flat(testkit.ReadText(t, "../docs/security.md"))
	for _, want := range []string{
		fmt.Sprintf("waits up to %.0f s for room", queueTime.Seconds()),
		fmt.Sprintf("At most %d requests of one network wait, and %d at each socket", queueLimit, queueSize),
		fmt.Sprintf("take at most %d KiB at each socket", queueSize*queuedLength>>10),
		fmt.Sprintf("%d KiB remember requests", unsafe.Sizeof(queue{}.asked)>>10),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/security.md does not say %q", want)
		}
	}
	if repeatPart != 8 || heldPart != 4 || errorPart != 4 {
		t.Error("docs/security.md names other parts of the budget")
	}
}
