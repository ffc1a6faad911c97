package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// startWithHTTP is start with -http. It returns the address of that as well.
func startWithHTTP(t *testing.T, root string, args ...string) (d *daemon, addr string) {
	t.Helper()
	d = start(t, root, append([]string{"-http", "127.0.0.1:0"}, args...)...)
	for _, line := range strings.Split(d.logged(), "\n") {
		if strings.HasPrefix(line, "status ") {
			return d, field(line, "http")
		}
	}
	t.Fatalf("no address of -http in\n%s", d.logged())
	return d, ""
}

// get returns the status and the text of a page.
func get(t *testing.T, addr, path string) (status int, text string) {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + addr + path)
	testkit.Must(t, err)
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	testkit.Must(t, err)
	return answer.StatusCode, string(b)
}

// await gets a page until it has a status, and returns the text.
func await(t *testing.T, addr, path string, want int) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		status, text := get(t, addr, path)
		if status == want {
			return text
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d %q", path, status, text)
		}
	}
}

// sample returns a value of a page of metrics; -1 if there is none.
func sample(page, name string) float64 {
	match := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(page)
	if match == nil {
		return -1
	}
	value, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		return -1
	}
	return value
}

// A server that is told to stop is alive, but takes no more, until its transfers have ended.
func TestHealthWhileStopping(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(20 * defaultBlockSize)
	testkit.WriteFile(t, folder+"/a.img", content)
	d, addr := startWithHTTP(t, folder, "-grace", "60s")
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, text := get(t, addr, path); status != 200 || text != "ok\n" {
			t.Errorf("%s: %d %q", path, status, text)
		}
	}
	got, refusal := dial(t, d.addr).fetch(rrq("a.img", "octet"), func(blocks int) {
		if blocks != 3 {
			return
		}
		testkit.Must(t, d.cmd.Process.Signal(syscall.SIGTERM))
		if text := await(t, addr, "/readyz", 503); text != "the server is stopping\n" {
			t.Errorf("%q", text)
		}
		if status, text := get(t, addr, "/healthz"); status != 200 {
			t.Errorf("%d %q", status, text)
		}
	})
	if !bytes.Equal(got, content) || refusal != "" {
		t.Errorf("%d bytes, %q", len(got), refusal)
	}
	if status := d.waitEnd(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// A folder that cannot be read any more is one line without a path.
func TestHealthOfTheFolder(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		testkit.Skip(t, "needs root, to become a user who may not read")
	}
	folder := testkit.PublicFolder(t)
	_, addr := startWithHTTP(t, folder)
	await(t, addr, "/healthz", 200)
	testkit.Must(t, os.Chmod(folder, 0))
	const want = "the folder cannot be read: permission denied\n"
	for _, path := range []string{"/healthz", "/readyz"} {
		if text := await(t, addr, path, 503); text != want {
			t.Errorf("%s: %q", path, text)
		}
	}
	testkit.Must(t, os.Chmod(folder, 0o755))
	await(t, addr, "/healthz", 200)
}

// What clients do is what the metrics say.
func TestMetricsCount(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(100_000)
	testkit.WriteFile(t, folder+"/a.img", content)
	d, addr := startWithHTTP(t, folder, "-max-transfers", "77")
	c := dial(t, d.addr)
	for _, ask := range []struct{ send, answer string }{
		{rrq("absent.txt", "octet"), notFound}, {rrq("a.key", "octet"), notFound}, {wrq("a.img"), readOnly}, {rrq("a.img", "mail"), illegal},
	} {
		if got := c.ask(ask.send); got != ask.answer {
			t.Errorf("%q: %q", ask.send, got)
		}
	}
	if got := c.ask(rrq("a.img", "octet", "tsize", "0")); !strings.HasPrefix(got, "\x00\x06") {
		t.Errorf("%q", got)
	}
	c.conn.Write([]byte("\x00\x05\x00\x08enough\x00"))
	fetches(t, d.addr, "a.img", string(content))
	c.conn.Write([]byte("\x00\x07nonsense"))
	c.conn.Write([]byte(ack(7)))
	if _, stderr, status := output(t, nil, "-healthcheck", "-listen", d.addr); status != 0 {
		t.Error(stderr)
	}
	want := map[string]float64{
		`flytftp_requests_total{result="sent"}`: 1, `flytftp_requests_total{result="not_found"}`: 1,
		`flytftp_requests_total{result="denied"}`: 3, `flytftp_requests_total{result="probed"}`: 1,
		`flytftp_requests_total{result="failed"}`: 0, `flytftp_refusals_total{reason="write"}`: 1,
		`flytftp_refusals_total{reason="mode"}`: 1, `flytftp_refusals_total{reason="malformed"}`: 1,
		`flytftp_refusals_total{reason="stray"}`: 1, "flytftp_transfers_running": 0, "flytftp_transfers_confirmed": 0,
		"flytftp_max_transfers": 77, "flytftp_transfer_duration_seconds_count": 1, "flytftp_flight_blocks_count": 1,
		"flytftp_window_bytes": 0, "flytftp_panics_total": 0, "process_max_fds": -2, "process_cpu_seconds_total": -2,
		"process_start_time_seconds": -2,
	}
	if runtime.GOOS == "linux" {
		want["flytftp_kernel_drops_total"], want["process_resident_memory_bytes"], want["process_open_fds"] = 0, -2, -2
	}
	page := ""
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_, page = get(t, addr, "/metrics")
		wrong := ""
		for name, value := range want {
			if got := sample(page, name); got != value && (value != -2 || got <= 0) {
				wrong += fmt.Sprintf("%s is %v, want %v\n", name, got, value)
			}
		}
		if wrong == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s in\n%s", wrong, page)
		}
	}
	// A copy may have been sent on a busy machine.
	data, again, sent := sample(page, "flytftp_data_sent_total"), sample(page, "flytftp_data_retransmitted_total"), sample(page, "flytftp_sent_bytes_total")
	if data-again != float64(len(content)/defaultBlockSize+1) || sent < float64(len(content)) || again == 0 && sent != float64(len(content)) {
		t.Errorf("%v DATA, %v of them again, %v bytes", data, again, sent)
	}
	if runtime.GOOS == "linux" {
		if resident := sample(page, "process_resident_memory_bytes"); resident > float64(2*d.residentKiB("VmHWM")<<10) {
			t.Errorf("%v bytes resident", resident)
		}
		// It has the connection of the scrape, too.
		if open, files := sample(page, "process_open_fds"), d.descriptors(); open < float64(files) || open > float64(files+2) {
			t.Errorf("%v descriptors, the kernel says %d", open, files)
		}
	}
	if path, err := exec.LookPath("promtool"); err != nil {
		testkit.Skip(t, err.Error())
	} else {
		check := exec.Command(path, "check", "metrics")
		check.Stdin = strings.NewReader(page)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool: %v\n%s", err, out)
		}
	}
}

// Debian's curl is answered.
func TestCurlAsks(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("curl")
	if err != nil {
		testkit.Skip(t, err.Error())
	}
	_, addr := startWithHTTP(t, testkit.PublicFolder(t))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"/healthz"}, "ok\n200"}, {[]string{"/readyz?a=b"}, "ok\n200"}, {[]string{"--http1.0", "/healthz"}, "ok\n200"}, {[]string{"--head", "/metrics"}, "200"},
		{[]string{"--data", "x", "/healthz"}, "Method Not Allowed\n405"}, {[]string{"/"}, "Not Found\n404"},
		{[]string{"--header", "Host:", "/healthz"}, "Bad Request\n400"},
		{[]string{"--header", "X: " + strings.Repeat("x", 20_000), "/healthz"}, "Request Header Fields Too Large\n431"},
	} {
		last := len(c.args) - 1
		args := append([]string{"--silent", "--show-error", "--max-time", "30", "--write-out", "%{http_code}"}, c.args[:last]...)
		out, err := exec.Command(path, append(args, "http://"+addr+c.args[last])...).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), c.want) {
			t.Errorf("%.60q: %v\n%s", c.args, err, out)
		}
	}
}

// besiege keeps a hostile connection to addr, one after the other, until ctx is done.
func besiege(ctx context.Context, addr string, seed uint64, opened *atomic.Int64) {
	random := rand.New(rand.NewPCG(seed, 9069))
	for ctx.Err() == nil {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		opened.Add(1)
		closing := context.AfterFunc(ctx, func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		switch random.IntN(4) {
		case 0: // silence
		case 1: // slow-loris
			io.WriteString(conn, "GET /metrics HTTP/1.1\r\n")
			for {
				if _, err := io.WriteString(conn, "X: y\r\n"); err != nil {
					break
				}
				time.Sleep(200 * time.Millisecond)
			}
		case 2: // garbage
			b := make([]byte, random.IntN(10_000))
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			conn.Write(b)
		case 3: // a request whose answer nobody reads
			io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
			time.Sleep(time.Second)
		}
		io.Copy(io.Discard, conn)
		closing()
		conn.Close()
	}
}

// A thousand hostile clients of -http take nothing from TFTP: every transfer has its file whole.
// Health checks and scrapes still get their answers.
func TestHostileHTTP(t *testing.T) {
	testkit.SkipIfShort(t)
	folder := testkit.PublicFolder(t)
	content := testkit.Pattern(100_000)
	testkit.WriteFile(t, folder+"/a.img", content)
	d, addr := startWithHTTP(t, folder)
	fetchAll := func() time.Duration {
		began := time.Now()
		var fetching sync.WaitGroup
		for range 8 {
			c := dial(t, d.addr)
			fetching.Go(func() {
				for range 3 {
					if got, refusal := c.fetch(rrq("a.img", "octet"), nil); !bytes.Equal(got, content) || refusal != "" {
						t.Errorf("%d bytes, %q", len(got), refusal)
					}
				}
			})
		}
		fetching.Wait()
		return time.Since(began)
	}
	quiet := fetchAll()
	before := d.descriptors()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var hostile sync.WaitGroup
	var opened atomic.Int64
	for i := range 1000 {
		hostile.Go(func() { besiege(ctx, addr, uint64(i), &opened) })
	}
	for deadline := time.Now().Add(patience); opened.Load() < 500 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	besieged := fetchAll()
	// Its places are full of others, so a page may take several attempts.
	answered, began := 0, time.Now()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(2 * patience); answered < 3 && time.Now().Before(deadline); {
		answer, err := client.Get("http://" + addr + "/healthz")
		if err != nil {
			continue
		}
		if answer.StatusCode != 200 {
			text, _ := io.ReadAll(answer.Body)
			t.Errorf("%d %s", answer.StatusCode, text)
		}
		answer.Body.Close()
		answered++
	}
	asked := time.Since(began)
	most := d.descriptors()
	stop()
	hostile.Wait()
	t.Logf("24 files took %v, and %v beside %d hostile connections, and 3 health checks %v; %d descriptors before, %d then", quiet, besieged, opened.Load(), asked, before, most)
	if answered < 3 {
		t.Errorf("%d health checks got an answer", answered)
	}
	if most > before+70 { // 64 places
		t.Errorf("%d descriptors, %d before", most, before)
	}
	for deadline := time.Now().Add(patience); d.descriptors() > before+2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors are left, %d before", d.descriptors(), before)
		}
	}
	fetchAll()
}

// A real Prometheus scrapes the server.
func TestPrometheusScrapes(t *testing.T) {
	t.Parallel()
	testkit.SkipIfShort(t)
	path, err := exec.LookPath("prometheus")
	if err != nil {
		testkit.Skip(t, err.Error())
	}
	folder := testkit.PublicFolder(t)
	testkit.WriteFile(t, folder+"/a.txt", []byte("hello"))
	d, addr := startWithHTTP(t, folder)
	fetches(t, d.addr, "a.txt", "hello")
	own, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.Must(t, err)
	prometheus := own.Addr().String()
	own.Close()
	work := t.TempDir()
	testkit.WriteFile(t, work+"/prometheus.yml", []byte(`
global: {scrape_interval: 1s}
scrape_configs: [{job_name: flytftp, static_configs: [{targets: ["`+addr+`"]}]}]
`))
	cmd := exec.Command(path, "--config.file="+work+"/prometheus.yml", "--storage.tsdb.path="+filepath.Join(work, "data"), "--web.listen-address="+prometheus)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	testkit.Must(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	defer func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s", log.String())
		}
	}()
	query := func(expression string) (value string, err error) {
		client := http.Client{Timeout: patience}
		answer, err := client.Get("http://" + prometheus + "/api/v1/query?query=" + expression)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		var result struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		if err := json.NewDecoder(answer.Body).Decode(&result); err != nil {
			return "", err
		}
		if len(result.Data.Result) != 1 {
			return "", errors.New("no value")
		}
		return fmt.Sprint(result.Data.Result[0].Value[1]), nil
	}
	for expression, want := range map[string]string{
		"up": "1", "flytftp_build_info": "1", `flytftp_requests_total{result="sent"}`: "1", "flytftp_transfer_duration_seconds_count": "1",
		`histogram_quantile(1,flytftp_flight_blocks_bucket)`: "1", "flytftp_max_transfers": "2000",
	} {
		for deadline := time.Now().Add(2 * patience); ; time.Sleep(100 * time.Millisecond) {
			got, err := query(strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22").Replace(expression))
			if err == nil && got == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %q, %v", expression, got, err)
			}
		}
	}
}

// Where the address of -http cannot be bound, the start fails with a line that says what to do.
func TestStartFailuresOfHTTP(t *testing.T) {
	t.Parallel()
	folder := testkit.PublicFolder(t)
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.Must(t, err)
	defer socket.Close()
	taken := socket.Addr().String()
	for _, c := range []struct {
		args   []string
		status int
		want   []string
	}{
		{[]string{"-http", "9069"}, 2, []string{"-http", "HOST:PORT"}},
		{[]string{"-http", taken}, 1, []string{taken, "in use", "-http"}},
		{[]string{"-http", "192.0.2.1:0"}, 1, []string{"192.0.2.1", "assign", "-http"}},
		{[]string{"-http", "[fe80::1%lo]:0"}, 1, []string{"fe80::1", "link-local"}},
	} {
		fails(t, append([]string{"-root", folder, "-listen", "127.0.0.1:0"}, c.args...), "", c.status, c.want...)
	}
	// The two are of different protocols, so they may have the same port.
	d := start(t, folder, "-listen", "127.0.0.1:0", "-http", "127.0.0.1:0")
	d.cmd.Process.Kill()
}
