package deploy

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

var (
	picture  = flag.String("picture", "", "draw the dashboard as a PNG `file`, with librsvg's rsvg-convert")
	duration = flag.Duration("load", 4*time.Minute, "how long the server works for the picture")
)

const patience = 60 * time.Second // for what takes a second on an idle machine

// await tries until f returns no error.
func await(t *testing.T, f func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// get returns the body of an answer with status 200.
func get(url string) ([]byte, error) {
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, answer.Status, body)
	}
	return body, err
}

// start starts a program, and kills it when the test ends. What it prints is shown if the test has
// failed.
func start(t *testing.T, path string, args ...string) *exec.Cmd {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	testkit.Must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(path), output.String())
		}
	})
	return cmd
}

// freePort returns a port of loopback that is free now, for programs that do not tell which they
// chose.
func freePort(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		testkit.Must(t, err)
		defer conn.Close()
		return conn.LocalAddr().String()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.Must(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// scraped is a server that a Prometheus scrapes with the configuration of this repository.
type scraped struct {
	server     *exec.Cmd
	tftp       string // its address
	http       string
	prometheus string
	interval   time.Duration // of scrapes
	beginning  time.Time
}

// content is what the server serves, by name.
var content = map[string][]byte{"large.img": testkit.Pattern(1 << 20), "small.ipxe": testkit.Pattern(2000)}

// readSourceFolders makes `go test` run a test again after a change of the source, which otherwise
// only `go build` reads.
func readSourceFolders() {
	filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != ".." && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		return nil
	})
}

func scrape(t *testing.T) *scraped {
	t.Helper()
	prometheus := tool(t, "prometheus")
	folder := testkit.PublicFolder(t)
	for name, bytes := range content {
		testkit.WriteFile(t, filepath.Join(folder, "files", name), bytes)
	}
	program := filepath.Join(folder, "flytftp")
	readSourceFolders()
	build := exec.Command("go", "build", "-ldflags", "-X main.version=v1.0.0", "-o", program, "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	s := &scraped{tftp: freePort(t, "udp"), http: freePort(t, "tcp"), prometheus: freePort(t, "tcp"), interval: 500 * time.Millisecond}
	s.server = start(t, program, "-listen", s.tftp, "-http", s.http, "-root", filepath.Join(folder, "files"))
	await(t, func() error { _, err := get("http://" + s.http + "/readyz"); return err })

	config := testkit.ReadText(t, configFile)
	for from, to := range map[string]string{
		"scrape_interval: 15s":     "scrape_interval: " + s.interval.String(),
		"evaluation_interval: 15s": "evaluation_interval: 1s",
		`"flytftp:9069"`:           strconv.Quote(s.http),
	} {
		if !strings.Contains(config, from) {
			t.Fatalf("the configuration has no %s", from)
		}
		config = strings.Replace(config, from, to, 1)
	}
	testkit.WriteFile(t, filepath.Join(folder, "prometheus.yml"), []byte(config))
	testkit.WriteFile(t, filepath.Join(folder, filepath.Base(rulesFile)), []byte(testkit.ReadText(t, rulesFile)))
	start(t, prometheus, "--config.file", filepath.Join(folder, "prometheus.yml"), "--storage.tsdb.path", filepath.Join(folder, "data"),
		"--web.listen-address", s.prometheus, "--log.level", "warn")
	s.beginning = time.Now()
	return s
}

// series is one line of an answer of Prometheus, with its values at the times of the query.
type series struct {
	Metric map[string]string
	Value  sample
	Values []sample
}

type sample struct{ at, value float64 } // seconds since 1970, any number

func (s *sample) UnmarshalJSON(text []byte) error {
	var pair [2]any
	err := json.Unmarshal(text, &pair)
	if err != nil {
		return err
	}
	s.at = pair[0].(float64)
	s.value, err = strconv.ParseFloat(pair[1].(string), 64)
	return err
}

// ask asks Prometheus for a query of the dashboard, now or, if step is not 0, over the time since
// the beginning.
func (s *scraped) ask(query string, step time.Duration) ([]series, error) {
	for variable, value := range map[string]string{"$region": ".*", "$instance": ".*", "$version": ".*",
		"$__rate_interval": (20 * s.interval).String(), "$__range": time.Since(s.beginning).Round(time.Second).String()} {
		query = strings.ReplaceAll(query, variable, value)
	}
	path, values := "query", url.Values{"query": {query}}
	if step != 0 {
		path = "query_range"
		values.Set("start", fmt.Sprint(s.beginning.Unix()))
		values.Set("end", fmt.Sprint(time.Now().Unix()))
		values.Set("step", step.String())
	}
	body, err := get("http://" + s.prometheus + "/api/v1/" + path + "?" + values.Encode())
	if err != nil {
		return nil, err
	}
	var answer struct{ Data struct{ Result []series } }
	return answer.Data.Result, json.Unmarshal(body, &answer)
}

// client is one machine that boots.
type client struct {
	options     string        // of its RRQ, NUL between and behind
	windowSize  int           // that the options ask for
	delay       time.Duration // before each ACK
	loss        float64       // part of the DATA that it does not see
	leavesAfter uint16        // blocks, after which it sends an ERROR; 0: never
}

// fetch fetches a file and returns its content, nil if it did not get all of it.
func (c client) fetch(server, name string) []byte {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil
	}
	defer conn.Close()
	to, _ := net.ResolveUDPAddr("udp", server)
	send := func(code, number uint16, text string) {
		conn.WriteTo(append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, code), number), text...), to)
	}
	conn.WriteTo([]byte("\x00\x01"+name+"\x00octet\x00"+c.options), to)
	var (
		file     []byte
		size     = 512
		last     uint16 // block in order
		since    int    // blocks that are not acknowledged
		datagram = make([]byte, 2000)
	)
	if match := regexp.MustCompile(`blksize\x00(\d+)`).FindStringSubmatch(c.options); match != nil {
		size, _ = strconv.Atoi(match[1])
	}
	for {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, _, err := conn.ReadFrom(datagram)
		if err != nil {
			return nil
		}
		switch code := binary.BigEndian.Uint16(datagram); {
		case code == 6:
			time.Sleep(c.delay)
			send(4, 0, "")
		case code == 5:
			return nil
		case code == 3 && rand.Float64() < c.loss:
		case code == 3:
			number := binary.BigEndian.Uint16(datagram[2:])
			if number != last+1 {
				if number == last { // the ACK was lost
					send(4, last, "")
				}
				continue
			}
			last, since = number, since+1
			file = append(file, datagram[4:n]...)
			if last == c.leavesAfter {
				send(5, 0, "gone\x00")
				return nil
			}
			if done := n < 4+size; done || since >= c.windowSize {
				time.Sleep(c.delay)
				send(4, last, "")
				since = 0
				if done {
					return file
				}
			}
		}
	}
}

// The clients that there are: firmware without windows and with them, near and far.
var (
	near   = client{options: "blksize\x001468\x00tsize\x000\x00", windowSize: 1}
	wide   = client{options: "blksize\x001468\x00windowsize\x0016\x00", windowSize: 16, delay: 3 * time.Millisecond}
	far    = client{options: "blksize\x001432\x00tsize\x000\x00", windowSize: 1, delay: 2 * time.Millisecond, loss: 0.002}
	bare   = client{windowSize: 1}
	leaves = client{options: "blksize\x001468\x00tsize\x000\x00", windowSize: 1, leavesAfter: 100}
)

// send sends datagrams to which no answer is awaited.
func (s *scraped) send(datagrams ...string) {
	conn, err := net.Dial("udp", s.tftp)
	if err != nil {
		return
	}
	defer conn.Close()
	for _, datagram := range datagrams {
		conn.Write([]byte(datagram))
	}
}

// work lets a few clients of each kind fetch, and others ask in vain.
func (s *scraped) work(t *testing.T) {
	t.Helper()
	for _, c := range []client{near, wide, bare} {
		if file := c.fetch(s.tftp, "large.img"); !bytes.Equal(file, content["large.img"]) {
			t.Fatalf("a client with options %q got %d bytes", c.options, len(file))
		}
	}
	near.fetch(s.tftp, "absent.ipxe")
	near.fetch(s.tftp, "../secret.ipxe")
	leaves.fetch(s.tftp, "large.img")
	s.send("\x00\x02small.ipxe\x00octet\x00", "\x00\x01small.ipxe\x00mail\x00", "garbage", "\x00\x04\x00\x07")
}

// exposed reads the metrics of a running program as a catalogue.
func exposed(t *testing.T, text string) catalogue {
	t.Helper()
	c := catalogue{}
	line := regexp.MustCompile(`^([a-z_]+)(?:\{(.*)\})? [0-9+.eE-]+$`)
	pair := regexp.MustCompile(`([a-z]+)="((?:[^"\\]|\\.)*)"`)
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		if words := strings.Fields(l); len(words) == 4 && words[1] == "TYPE" {
			c[words[2]] = metric{words[3], map[string][]string{}}
		}
		if strings.HasPrefix(l, "#") {
			continue
		}
		match := line.FindStringSubmatch(l)
		if match == nil {
			t.Fatalf("the line %q", l)
		}
		m, known := c.find(match[1])
		if !known {
			t.Fatalf("%s has no type", match[1])
		}
		for _, label := range pair.FindAllStringSubmatch(match[2], -1) {
			m.labels[label[1]] = append(m.labels[label[1]], label[2])
		}
	}
	return c
}

// The queries are held against metrics.go. This holds metrics.go, as they read it, against the
// program.
func TestProgramExposes(t *testing.T) {
	testkit.SkipIfShort(t)
	s := scrape(t)
	text, err := get("http://" + s.http + "/metrics")
	testkit.Must(t, err)
	got, want := exposed(t, string(text)), program(t)
	for name, m := range want {
		if !strings.Contains(m.kind, got[name].kind) || got[name].kind == "" {
			t.Errorf("%s is a %q", name, got[name].kind)
		}
		for label, values := range m.labels {
			shown := got[name].labels[label]
			slices.Sort(shown)
			slices.Sort(values)
			if len(shown) == 0 || values != nil && !slices.Equal(shown, values) {
				t.Errorf("%s has %s %q, want %q", name, label, shown, values)
			}
		}
	}
	for name, m := range got {
		if _, known := want[name]; !known {
			t.Errorf("metrics.go does not name %s", name)
		}
		for label := range m.labels {
			if _, known := want[name].labels[label]; !known && label != "le" {
				t.Errorf("%s has the label %s", name, label)
			}
		}
	}
}

func TestDashboardShowsData(t *testing.T) {
	testkit.SkipIfShort(t)
	s := scrape(t)
	await(t, func() error {
		up, err := s.ask(`up{job="flytftp"} == 1`, 0)
		if err == nil && len(up) != 1 {
			err = fmt.Errorf("Prometheus sees %d servers", len(up))
		}
		return err
	})
	if *picture != "" {
		s.load(t)
		s.draw(t)
		return
	}
	s.work(t)
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			await(t, func() error {
				answer, err := s.ask(target.Expr, 0)
				if err == nil && !slices.ContainsFunc(answer, func(line series) bool { return !math.IsNaN(line.Value.value) }) {
					err = fmt.Errorf("%s: no data by %s", p.Title, target.Expr)
				}
				return err
			})
		}
	}
	// What the clients did is what the dashboard says.
	for query, want := range map[string]float64{
		`flytftp_requests_total{result="sent"}`:      3,
		`flytftp_requests_total{result="failed"}`:    1,
		`flytftp_requests_total{result="not_found"}`: 1,
	} {
		await(t, func() error {
			answer, err := s.ask(query, 0)
			if err == nil && (len(answer) != 1 || answer[0].Value.value != want) {
				err = fmt.Errorf("%s is %v, want %v", query, answer, want)
			}
			return err
		})
	}

	testkit.Must(t, s.server.Process.Kill())
	await(t, func() error {
		body, err := get("http://" + s.prometheus + "/api/v1/rules")
		if err != nil {
			return err
		}
		var answer struct {
			Data struct {
				Groups []struct {
					Rules []struct{ Name, State, Health, LastError string }
				}
			}
		}
		testkit.Must(t, json.Unmarshal(body, &answer))
		for _, rule := range answer.Data.Groups[0].Rules {
			if rule.Health == "err" {
				t.Fatalf("%s: %s", rule.Name, rule.LastError)
			}
			if rule.Name == "FlytftpDown" && rule.State == "pending" {
				return nil
			}
		}
		return fmt.Errorf("the server is gone, and Prometheus says %s", body)
	})
}
