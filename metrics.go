package main

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"flytftp/internal/folder"
	"flytftp/singleport"
	"flytftp/status"
)

// The names of the metrics, in the order in which they are written. docs/metrics.md explains each.
// A name and its labels are an interface: dashboards and alerts depend on them.
const (
	metricRequests       = "flytftp_requests_total" // by result
	metricRefusals       = "flytftp_refusals_total" // by reason, a singleport.Refusal
	metricRunning        = "flytftp_transfers_running"
	metricConfirmed      = "flytftp_transfers_confirmed"
	metricMaxTransfers   = "flytftp_max_transfers"
	metricSentBytes      = "flytftp_sent_bytes_total"
	metricData           = "flytftp_data_sent_total"
	metricRetransmitted  = "flytftp_data_retransmitted_total"
	metricTimeouts       = "flytftp_timeouts_total"
	metricGoBacks        = "flytftp_go_backs_total"
	metricFlight         = "flytftp_flight_blocks"
	metricDuration       = "flytftp_transfer_duration_seconds"
	metricRoundTrip      = "flytftp_round_trip_seconds"
	metricWaiting        = "flytftp_requests_waiting"
	metricWindowBytes    = "flytftp_window_bytes"
	metricHanging        = "flytftp_files_hanging"
	metricKernelDrops    = "flytftp_kernel_drops_total"
	metricSuppressed     = "flytftp_log_lines_suppressed_total"
	metricPanics         = "flytftp_panics_total"
	metricBuild          = "flytftp_build_info" // labels version and goversion
	metricStartTime      = "process_start_time_seconds"
	metricCPU            = "process_cpu_seconds_total"
	metricResidentMemory = "process_resident_memory_bytes"
	metricOpenFiles      = "process_open_fds"
	metricMaxFiles       = "process_max_fds"
)

// results are the values of the label of metricRequests: the words of the log, with an underscore
// for a blank.
var results = [...]string{"sent", "failed", "timed_out", "probed", "not_found", "denied", "busy", "hanging"}

// reasons is how many a singleport.Refusal can be.
const reasons = int(singleport.RefusedHanging) + 1

// counters are what the log counts, whether it writes a line or not.
type counters struct {
	requests                  [len(results)]atomic.Uint64
	refusals                  [reasons]atomic.Uint64
	linesSuppressed, panicked atomic.Uint64
}

// request counts a request that ended with an event of the log; none is nobody's.
func (c *counters) request(event string) {
	event = strings.ReplaceAll(event, " ", "_")
	for i, result := range results {
		if result == event {
			c.requests[i].Add(1)
		}
	}
}

// metrics makes the page /metrics.
type metrics struct {
	counters     *counters
	server       *singleport.Server
	process      *status.Process
	maxTransfers int
}

const (
	counter = "counter"
	gauge   = "gauge"
)

// family is a metric with one value.
type family struct {
	name, kind, help string
	value            float64
}

// distribution is a metric with a histogram, whose bounds and sum are so many units.
type distribution struct {
	name, help string
	bounds     []int64
	unit       float64
	histogram  *singleport.Histogram
}

// page appends the metrics.
func (m *metrics) page(text []byte) ([]byte, bool) {
	t := status.Text(text)
	c, u := m.server.Counts(), m.process.Usage()
	t.Family(metricRequests, counter, "Requests that ended, by result; the results are the events of the log.")
	for i, result := range results {
		t.Value(metricRequests, `{result="`+result+`"}`, float64(m.counters.requests[i].Load()))
	}
	t.Family(metricRefusals, counter, "Datagrams that got no transfer, and files that hang, by reason.")
	for i := range reasons {
		t.Value(metricRefusals, `{reason="`+singleport.Refusal(i).String()+`"}`, float64(m.counters.refusals[i].Load()))
	}
	writeFamilies(&t, []family{
		{metricRunning, gauge, "Transfers that run.", float64(c.Running)},
		{metricConfirmed, gauge, "Transfers that run and whose client acknowledged something.", float64(c.Confirmed)},
		{metricMaxTransfers, gauge, "Transfers that may run at a time, the option -max-transfers.", float64(m.maxTransfers)},
		{metricSentBytes, counter, "Bytes of files that were sent in DATA, repeats included, headers not.", float64(c.DataBytes)},
		{metricData, counter, "DATA that were sent, repeats included.", float64(c.Data)},
		{metricRetransmitted, counter, "DATA that were sent again.", float64(c.Retransmitted)},
		{metricTimeouts, counter, "Waits for an ACK that took longer than the retransmission timer.", float64(c.Timeouts)},
		{metricGoBacks, counter, "Times that a transfer went back to the first block that was not acknowledged.", float64(c.GoBacks)},
	})
	for _, d := range []distribution{
		{metricFlight, "Most blocks in flight of each confirmed transfer that ended.", singleport.FlightBounds[:], 1, &c.Flight},
		{metricDuration, "Durations of transfers that were sent whole, from the request on.", singleport.DurationBounds[:], 1e9, &c.Duration},
		{metricRoundTrip, "Least round trip of each confirmed transfer that ended.", singleport.RoundTripBounds[:], 1e9, &c.RoundTrip},
	} {
		bounds := make([]float64, len(d.bounds))
		for i, bound := range d.bounds {
			bounds[i] = float64(bound) / d.unit
		}
		t.Family(d.name, "histogram", d.help)
		t.Histogram(d.name, bounds, d.histogram.Counts[:], float64(d.histogram.Sum)/d.unit)
	}
	writeFamilies(&t, []family{
		{metricWaiting, gauge, "Requests that wait for room.", float64(c.Waiting)},
		{metricWindowBytes, gauge, "Bytes of memory for the parts of files that transfers have at hand.", float64(c.SegmentBytes)},
		{metricHanging, gauge, "File operations that have not returned for 2 s.", float64(c.Hanging)},
		{metricKernelDrops, counter, "Datagrams that the kernel dropped because the server did not read them in time.", float64(c.Dropped)},
		{metricSuppressed, counter, "Lines that the bounds of the log or a slow reader of it kept from being written.", float64(m.counters.linesSuppressed.Load())},
		{metricPanics, counter, "Bugs that were contained; please report them.", float64(m.counters.panicked.Load())},
	})
	t.Family(metricBuild, gauge, "Always 1, with the version of the program and of Go.")
	t.Value(metricBuild, fmt.Sprintf("{version=%q,goversion=%q}", version, runtime.Version()), 1)
	writeFamilies(&t, []family{
		{metricStartTime, gauge, "When the process began, in seconds since 1970.", u.StartTime},
		{metricCPU, counter, "CPU time that the process took, in user and system mode.", u.CPU},
		{metricResidentMemory, gauge, "Resident memory of the process.", u.Resident},
		{metricOpenFiles, gauge, "Descriptors that the process has open.", u.OpenFiles},
		{metricMaxFiles, gauge, "Descriptors that the process may have open.", u.MaxFiles},
	})
	return t, true
}

// writeFamilies leaves out what this platform does not tell: its value is negative.
func writeFamilies(t *status.Text, families []family) {
	for _, f := range families {
		if f.value >= 0 {
			t.Family(f.name, f.kind, f.help)
			t.Value(f.name, "", f.value)
		}
	}
}

// health makes the pages /healthz and /readyz.
type health struct {
	server *singleport.Server
	folder *folder.Folder

	mu   sync.Mutex
	look *look // at the folder, while one goes on
}

// look is one at the folder, which a disk may keep for ever.
type look struct {
	done chan struct{}
	err  error
}

// folderTime is how long the folder may take to answer.
const folderTime = time.Second

// alive appends why the server is not well, or that it is.
func (h *health) alive(text []byte) ([]byte, bool) {
	err := h.server.Health()
	if err == nil {
		err = h.lookAtFolder()
	}
	if err != nil {
		return append(text, err.Error()+"\n"...), false
	}
	return append(text, "ok\n"...), true
}

// ready is alive for a server that takes new requests.
func (h *health) ready(text []byte) ([]byte, bool) {
	if h.server.Stopping() {
		return append(text, "the server is stopping\n"...), false
	}
	return h.alive(text)
}

// lookAtFolder returns an error without a path if the folder is not there, or cannot be read.
func (h *health) lookAtFolder() error {
	h.mu.Lock()
	l := h.look
	if l == nil {
		l = &look{done: make(chan struct{})}
		h.look = l
		go func() {
			if l.err = h.folder.Lost(); l.err != nil {
				l.err = errors.New("the folder was moved, deleted or replaced")
			} else if l.err = h.folder.Readable(); l.err != nil {
				l.err = unreadable(l.err)
			}
			h.mu.Lock()
			h.look = nil
			h.mu.Unlock()
			close(l.done)
		}()
	}
	h.mu.Unlock()
	select {
	case <-l.done:
		return l.err
	case <-time.After(folderTime):
		return errors.New("the disk of the folder does not answer")
	}
}

func unreadable(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fmt.Errorf("the folder cannot be read: %w", errno)
	}
	return errors.New("the folder cannot be read")
}
