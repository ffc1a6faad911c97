package main

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
