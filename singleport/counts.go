package singleport

import "unsafe"

// Counts are what a server did since it began, and what it holds now.
type Counts struct {
	Running   int // transfers
	Confirmed int // of them, those whose client acknowledged something
	Waiting   int // requests that wait for room
	Hanging   int // files that have not answered for two seconds

	SegmentBytes int64 // of file contents, that transfers hold in memory
	// Dropped is how many datagrams the kernel dropped because nobody read them in time, as far
	// as datagrams that came after them told; negative if that is not known.
	Dropped int64

	Tally
}

// Tally is what a shard counts. Its fields are the shard's mutex's, and plain: counting must cost
// next to nothing. All of them are uint64, so that add takes it for an array of them.
type Tally struct {
	Data          uint64 // DATA datagrams that were sent
	DataBytes     uint64 // bytes of files in them
	Retransmitted uint64 // DATA of them that were sent before
	Timeouts      uint64 // retransmission timers that ran out
	GoBacks       uint64 // flights that were sent again from the first block not acknowledged

	// One value for each confirmed transfer that ended: the most blocks that it had in flight, and
	// its least round trip in nanoseconds. Duration is that of transfers whose client has the
	// whole file, in nanoseconds.
	Flight, RoundTrip, Duration Histogram
}

// buckets is how many bounds each Histogram has.
const buckets = 11

// Histogram counts values by size.
type Histogram struct {
	// Counts has for each bound the values up to it that are over the one before, then those over
	// the last.
	Counts [buckets + 1]uint64
	Sum    uint64
}

// Bounds of the histograms.
var (
	FlightBounds    = [buckets]int64{1, 2, 4, 8, 12, 16, 24, 32, 64, 128, 1024}
	RoundTripBounds = [buckets]int64{100e3, 300e3, 1e6, 3e6, 10e6, 20e6, 50e6, 100e6, 200e6, 500e6, 1e9}
	DurationBounds  = [buckets]int64{10e6, 50e6, 100e6, 500e6, 1e9, 2e9, 5e9, 10e9, 30e9, 60e9, 300e9}
)

// add counts a value.
func (h *Histogram) add(bounds *[buckets]int64, value int64) {
	i := 0
	for i < buckets && value > bounds[i] {
		i++
	}
	h.Counts[i]++
	h.Sum += uint64(value)
}

// add adds what another shard counted.
func (t *Tally) add(other *Tally) {
	type all [unsafe.Sizeof(*t) / 8]uint64
	sum, more := (*all)(unsafe.Pointer(t)), (*all)(unsafe.Pointer(other))
	for i := range sum {
		sum[i] += more[i]
	}
}

// Counts returns what all sockets counted. It may be called while they are at work.
func (s *Server) Counts() Counts {
	c := Counts{Running: s.Active(), Hanging: s.disk.hangingNow(), Dropped: s.dropped()}
	for _, shard := range s.shards {
		shard.mu.Lock()
		c.Confirmed += shard.confirmed
		c.Waiting += len(shard.queue.requests)
		c.SegmentBytes += shard.segmentBytes
		c.Tally.add(&shard.tally)
		shard.mu.Unlock()
	}
	return c
}

// countEnd counts a transfer that ends with err.
func (s *shard) countEnd(t *Transfer, err error) {
	s.server.config.Observer.Ended(err, t.window.bytesAcked())
	if t.confirmed {
		s.confirmed--
		s.tally.Flight.add(&FlightBounds, int64(t.largestFlight))
		if trip := t.flight.leastTrip(); trip > 0 {
			s.tally.RoundTrip.add(&RoundTripBounds, int64(trip))
		}
	}
	if err == nil {
		s.tally.Duration.add(&DurationBounds, t.ended-t.began)
	}
}

// countData counts DATA that was queued on the socket, or, with a sign of -1, was not taken by it.
func (s *shard) countData(count, fresh, bytes, sign int) {
	s.tally.Data += uint64(sign * count)
	s.tally.DataBytes += uint64(sign * bytes)
	s.tally.Retransmitted += uint64(sign * (count - fresh))
}

// hangingNow returns how many file operations have not answered for hungTime.
func (d *disk) hangingNow() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	hanging, now := d.hanging, d.now()
	for u := range d.working {
		if now-u.since >= int64(hungTime) {
			hanging++
		}
	}
	return hanging
}
