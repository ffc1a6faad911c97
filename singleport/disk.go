package singleport

import (
	linked "container/list"
	"sync"
	"time"
)

const (
	// maxWaiting bounds the handlers, reads and closings that run at the same time. Each may
	// take a thread while a disk does not answer, and a process that gets no more of them
	// ends.
	maxWaiting = 64
	// hungTime makes one of them a hung one, which keeps no other waiting: even a disk that
	// spins up has begun to answer by then, or its clients wait together.
	hungTime = 2 * time.Second
	// maxHung of them are beyond maxWaiting. With more, files that answer wait as well.
	maxHung = 64
	// lookTime lies between two looks for hung ones, while others wait.
	lookTime = hungTime / 4
	// fileTime is how long a client waits for the first word or the first block of a file that
	// does not answer, or for its turn, before it is told that the server is busy.
	fileTime = 6 * time.Second
)

// disk gives file operations their turns, and keeps those that hang from standing in the way
// of others. The name of a file that hangs gets no more turns meanwhile, so that a room that
// asks for it takes few of them.
type disk struct {
	now func() int64 // monotonic nanoseconds

	mu      sync.Mutex
	working map[*turn]struct{}
	hung    map[string]int // by name
	hanging int            // sum of hung
	queue   linked.List    // of *turn that wait for one of maxWaiting
	parked  linked.List    // of *turn that wait for a file that hangs
	timer   *time.Timer    // runs while there is a queue
}

// turn is that of one file operation of a transfer, which has one at a time. Its fields belong
// to disk.
type turn struct {
	name  string
	over  bool // it never begins
	since int64
	hangs bool
	list  *linked.List // that it waits in
	place *linked.Element
	ready chan bool // whether it begins
}

func newDisk(now func() int64) *disk {
	return &disk{now: now, working: map[*turn]struct{}{}, hung: map[string]int{}}
}

// enter waits for the turn of u. It returns false if cancel came first.
func (d *disk) enter(u *turn) bool {
	d.mu.Lock()
	switch {
	case u.over:
		d.mu.Unlock()
		return false
	case len(d.working) < maxWaiting && d.hung[u.name] == 0:
		d.begin(u)
		d.mu.Unlock()
		return true
	}
	u.ready = make(chan bool, 1)
	if d.hung[u.name] > 0 {
		u.wait(&d.parked)
	} else {
		u.wait(&d.queue)
		d.watch()
	}
	d.mu.Unlock()
	return <-u.ready
}

// leave ends the operation of u.
func (d *disk) leave(u *turn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !u.hangs {
		delete(d.working, u)
	} else {
		u.hangs = false
		d.hanging--
		if d.hung[u.name]--; d.hung[u.name] == 0 {
			delete(d.hung, u.name)
			move(&d.parked, &d.queue, u.name)
		}
		d.watch() // there is room for another that hangs
	}
	d.next()
}

// cancel has enter return false, now or later. An operation that began goes on.
func (d *disk) cancel(u *turn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	u.over = true
	if u.place != nil {
		u.list.Remove(u.place)
		u.place = nil
		u.ready <- false
	}
}

func (d *disk) begin(u *turn) {
	u.since = d.now()
	d.working[u] = struct{}{}
}

// next begins what the queue holds and there is room for.
func (d *disk) next() {
	for len(d.working) < maxWaiting && d.queue.Len() > 0 {
		u := d.queue.Remove(d.queue.Front()).(*turn)
		u.place = nil
		d.begin(u)
		u.ready <- true
	}
}

// watch has the working ones looked at while others wait for them.
func (d *disk) watch() {
	if d.timer == nil && d.queue.Len() > 0 {
		d.timer = time.AfterFunc(lookTime, d.look)
	}
}

// look finds out which operations hang, and begins others in their place.
func (d *disk) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = nil
	now := d.now()
	for u := range d.working {
		if now-u.since < int64(hungTime) || d.hanging == maxHung {
			continue
		}
		delete(d.working, u)
		u.hangs = true
		d.hanging++
		if d.hung[u.name]++; d.hung[u.name] == 1 {
			move(&d.queue, &d.parked, u.name)
		}
	}
	d.next()
	d.watch()
}

func (u *turn) wait(in *linked.List) { u.list, u.place = in, in.PushBack(u) }

// move moves the turns of a name to the end of another list.
func move(from, to *linked.List, name string) {
	for e := from.Front(); e != nil; {
		u := e.Value.(*turn)
		following := e.Next()
		if u.name == name {
			from.Remove(e)
			u.wait(to)
		}
		e = following
	}
}
