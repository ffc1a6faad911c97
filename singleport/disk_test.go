package singleport

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// hangingDisk serves files of which some hang until it is healed: "open..." when it is opened,
// "read..." when it is read.
type hangingDisk struct {
	healed  chan struct{}
	content []byte
	kept    chan struct{} // has an element for each operation that hangs
}

func (d *hangingDisk) hang() {
	d.kept <- struct{}{}
	<-d.healed
	<-d.kept
}

func (d *hangingDisk) handle(t *Transfer) (File, error) {
	if strings.HasPrefix(t.Name(), "open") {
		d.hang()
	}
	return hangingFile{testFile{Reader: bytes.NewReader(d.content)}, d, strings.HasPrefix(t.Name(), "read")}, nil
}

type hangingFile struct {
	testFile
	disk  *hangingDisk
	hangs bool
}

func (f hangingFile) Read(p []byte) (int, error) {
	if f.hangs {
		f.disk.hang()
	}
	return f.testFile.Read(p)
}

func (f hangingFile) ReadAt(p []byte, at int64) (int, error) {
	if f.hangs {
		f.disk.hang()
	}
	return f.testFile.ReadAt(p, at)
}

// onHangingDisk runs test with a server of hanging files, and heals them afterwards.
func onHangingDisk(t *testing.T, cfg Config, test func(t *testing.T, n *rig, d *hangingDisk)) {
	synctest.Test(t, func(t *testing.T) {
		d := &hangingDisk{make(chan struct{}), content(300_000), make(chan struct{}, 10_000)}
		n := newRig(t, map[string][]byte{"whole": d.content}, 1)
		n.serve(cfg, func(t *Transfer) (File, error) {
			n.noteBegin(t, d.content)
			return d.handle(t)
		}, n.link)
		healed := false
		heal := func() {
			if !healed {
				healed = true
				close(d.healed)
			}
		}
		defer n.stop(10 * time.Minute)
		defer heal()
		test(t, n, d)
	})
}

// healthy fetches a file and returns how long it took.
func (n *rig) healthy(client int, name string, want []byte, pace time.Duration) time.Duration {
	n.t.Helper()
	m := modelNamed("iPXE")
	m.card = card{pace: pace}
	c := m.open(n.link, client, 2000)
	defer c.close()
	began := time.Now()
	got, err := m.fetch(c, name)
	if err != nil || !bytes.Equal(got, want) {
		n.t.Errorf("%s: %d bytes, %v", name, len(got), err)
	}
	return time.Since(began)
}

// Files that hang, when they are opened or read, in octet or netascii, with options or without,
// keep no other file from being served: neither the transfers that run nor new ones. Their
// clients are told within 7 s, threads are bounded, and the observer knows.
func TestHangingFilesStopNoOthers(t *testing.T) {
	for _, test := range []struct {
		name    string
		request func(i int) []byte
		count   int
	}{
		{"opens of one file", func(int) []byte { return requestOf("open", "octet", "blksize", "1432") }, 300},
		{"opens of many files", func(i int) []byte { return requestOf(fmt.Sprint("open", i), "octet", "blksize", "1432") }, maxHung},
		{"reads of one file", func(int) []byte { return requestOf("read", "octet") }, 300},
		{"reads of many files", func(i int) []byte { return requestOf(fmt.Sprint("read", i), "octet") }, maxHung},
		{"reads after an OACK", func(int) []byte { return requestOf("read", "octet", "blksize", "1432") }, 300},
		{"netascii", func(int) []byte { return requestOf("read", "netascii") }, 300},
	} {
		t.Run(test.name, func(t *testing.T) {
			onHangingDisk(t, generous, func(t *testing.T, n *rig, d *hangingDisk) {
				n.both(path{delay: 5 * time.Millisecond})
				running := make(chan time.Duration)
				// 210 blocks take it 3 s, in which it reads five times.
				go func() { running <- n.healthy(5000, "whole", d.content, 15*time.Millisecond) }()
				time.Sleep(30 * time.Millisecond)
				var ports []*port
				began := time.Now()
				for i := range test.count {
					c := n.client(i, 7, 8)
					c.send(test.request(i))
					ports = append(ports, c)
				}
				told := make(chan time.Duration)
				for _, c := range ports {
					go func() {
						for {
							data := c.expect(20 * time.Second)
							if len(data) > 1 && data[1] == wireOACK {
								c.send(ackOf(0))
								continue
							}
							if !bytes.Equal(data, errorOf(0, "Server busy")) {
								t.Errorf("%v received %q", c.endpoint.addrPort(), data)
							}
							told <- time.Since(began)
							return
						}
					}()
				}
				if took := <-running; took > 7*time.Second {
					t.Errorf("a transfer that ran took %v", took)
				}
				if took := n.healthy(5001, "whole", d.content, 0); took > 4*time.Second {
					t.Errorf("a new transfer took %v", took)
				}
				if len(d.kept) == 0 || len(d.kept) > maxHung+maxWaiting {
					t.Errorf("%d operations hang", len(d.kept))
				}
				for range ports {
					if took := <-told; took > 7*time.Second {
						t.Errorf("a client was told after %v", took)
					}
				}
				if hanging := n.server.Hanging(); hanging != len(d.kept) {
					t.Errorf("the server tells of %d operations, %d hang", hanging, len(d.kept))
				}
				if took := n.healthy(5002, "whole", d.content, 0); took > time.Second {
					t.Errorf("a transfer took %v once the disk had hung for long", took)
				}
				if got := n.observer.refusals(RefusedHanging); got != test.count {
					t.Errorf("the observer was told of %d clients, want %d", got, test.count)
				}
				time.Sleep(time.Second) // for its last ACK to arrive
				synctest.Wait()
				checkIdle(t, n.server.admission)
			})
		})
	}
}

// Whatever hangs, threads are bounded, and those that wait leave no goroutine behind.
func TestHangingFilesAreBounded(t *testing.T) {
	onHangingDisk(t, generous, func(t *testing.T, n *rig, d *hangingDisk) {
		for round := range 3 {
			for i := range 500 {
				n.client(i, uint16(round+1), 8).send(requestOf(fmt.Sprint("open", round, i), "octet"))
			}
			time.Sleep(10 * time.Second)
			if len(d.kept) > maxHung+maxWaiting {
				t.Fatalf("%d operations hang", len(d.kept))
			}
		}
		if active := n.server.Active(); active > maxHung+maxWaiting {
			t.Errorf("%d transfers are left", active)
		}
		synctest.Wait()
		checkIdle(t, n.server.admission)
		close(d.healed)
		d.healed = make(chan struct{})
		n.healthy(5003, "whole", d.content, 0)
		synctest.Wait() // for the operations to return
		if hanging := n.server.Hanging(); hanging != 0 {
			t.Errorf("the server tells of %d operations when none hangs", hanging)
		}
	})
}

// A request that waits for a disk can be ended by its client, and makes way when others ask.
func TestWaitingRequestsAreInTheHandsOfAdmission(t *testing.T) {
	cfg := generous
	cfg.MaxTransfers = 4
	onHangingDisk(t, cfg, func(t *testing.T, n *rig, d *hangingDisk) {
		for i := range 2 {
			n.client(i, 7, 8).send(requestOf("open", "octet"))
		}
		time.Sleep(300 * time.Millisecond)
		n.healthy(5000, "whole", d.content, 0)
		n.client(3, 7, 8).send(requestOf("open", "octet"))
		time.Sleep(time.Millisecond)
		n.client(3, 7, 8).send(errorOf(0, "enough"))
		time.Sleep(time.Millisecond)
		n.server.shards[0].mu.Lock()
		if left := len(n.server.shards[0].clients); left != 1 {
			t.Errorf("%d transfers are left, want that which neither ended nor made way", left)
		}
		n.server.shards[0].mu.Unlock()
	})
}
