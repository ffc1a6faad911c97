package status

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

var testPages = []Page{
	{Path: "/healthz", Get: func(text []byte) ([]byte, bool) { return append(text, "well\n"...), true }},
	{Path: "/readyz", Get: func(text []byte) ([]byte, bool) { return append(text, "not yet\n"...), false }},
}

func TestRespond(t *testing.T) {
	const host = "Host: x\r\n"
	for _, c := range []struct {
		request, status, text string
	}{
		{"GET /healthz HTTP/1.1\r\n" + host + "\r\n", "200 OK", "well\n"},
		{"GET /readyz HTTP/1.1\r\n" + host + "\r\n", "503 Service Unavailable", "not yet\n"},
		{"HEAD /healthz HTTP/1.1\r\n" + host + "\r\n", "200 OK", ""},
		{"HEAD /absent HTTP/1.1\r\n" + host + "\r\n", "404 Not Found", ""},
		{"GET /healthz HTTP/1.0\r\n\r\n", "200 OK", "well\n"},
		{"GET /healthz HTTP/1.0\n\n", "200 OK", "well\n"},
		{"\r\n\r\nGET /healthz HTTP/1.0\r\n\r\n", "200 OK", "well\n"},
		{"GET /healthz?a=b HTTP/1.1\r\nhOST:x\r\n\r\n", "200 OK", "well\n"},
		{"GET http://example.org/healthz?a HTTP/1.1\r\n" + host + "\r\n", "200 OK", "well\n"},
		{"GET http://example.org HTTP/1.1\r\n" + host + "\r\n", "404 Not Found", "Not Found\n"},
		{"GET / HTTP/1.1\r\n" + host + "\r\n", "404 Not Found", "Not Found\n"},
		{"GET /healthz/ HTTP/1.1\r\n" + host + "\r\n", "404 Not Found", "Not Found\n"},
		{"GET //healthz HTTP/1.1\r\n" + host + "\r\n", "404 Not Found", "Not Found\n"},
		{"GET /HEALTHZ HTTP/1.1\r\n" + host + "\r\n", "404 Not Found", "Not Found\n"},
		{"OPTIONS * HTTP/1.1\r\n" + host + "\r\n", "404 Not Found", "Not Found\n"},
		{"POST /healthz HTTP/1.1\r\n" + host + "\r\n", "405 Method Not Allowed", "Method Not Allowed\n"},
		{"get /healthz HTTP/1.1\r\n" + host + "\r\n", "405 Method Not Allowed", "Method Not Allowed\n"},
		{"GET /healthz HTTP/1.1\r\n\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz HTTP/1.1\r\n" + host + host + "\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz HTTP/1.1\r\n" + host + " folded\r\n\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz HTTP/1.1\r\n" + host + "a b: c\r\n\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz HTTP/1.1\r\n" + host + ": c\r\n\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz HTTP/1.1\r\n" + host + "none\r\n\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz HTTP/1.1\r\n" + host + "a: \x00\r\n\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz\r\n\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz HTTP/2.0\r\n" + host + "\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET  /healthz HTTP/1.1\r\n" + host + "\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz HTTP/1.1 x\r\n" + host + "\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET healthz HTTP/1.1\r\n" + host + "\r\n", "400 Bad Request", "Bad Request\n"},
		{"GET /h\xe9 HTTP/1.1\r\n" + host + "\r\n", "400 Bad Request", "Bad Request\n"},
		{"G(T /healthz HTTP/1.1\r\n" + host + "\r\n", "400 Bad Request", "Bad Request\n"},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 Bad Request", "Bad Request\n"},
		{"\x16\x03\x01\x02\x00\x01\n\n", "400 Bad Request", "Bad Request\n"},
		{"GET /healthz HTTP/1.1\r\n" + host, "431 Request Header Fields Too Large", "Request Header Fields Too Large\n"},
	} {
		answer, isPage := respond([]byte(c.request), testPages)
		head, text, _ := strings.Cut(string(answer), "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.1 "+c.status+"\r\n") || text != c.text {
			t.Errorf("%q: %q", c.request, answer)
		}
		if isPage != (c.status[0] == '2' || c.status[0] == '5') {
			t.Errorf("%q is a page: %v", c.request, isPage)
		}
		if allow := strings.Contains(head, "\r\nAllow: GET, HEAD\r\n"); allow != (c.status[:3] == "405") {
			t.Errorf("%q: %q", c.request, head)
		}
	}
}

// Whatever arrives, the answer is one that an HTTP client reads, with nothing of the request in it;
// and net/http takes for a good request what gets a page.
func FuzzRespond(f *testing.F) {
	for _, seed := range []string{"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD /readyz HTTP/1.0\n\n",
		"GET http://x/healthz HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\n\r\nbody", "\r\n\n\r\n", "GET"} {
		f.Add([]byte(seed))
	}
	statuses := " 200 400 404 405 431 503 "
	expected := map[string]bool{}
	f.Fuzz(func(t *testing.T, sent []byte) {
		header, whole := readHeader(bytes.NewReader(sent), make([]byte, headerSize))
		if !whole && len(header) < headerSize {
			return // it is closed without an answer
		}
		answer, isPage := respond(header, testPages)
		method, _, _ := parse(header)
		read, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q: %v: %q", sent, err, answer)
		}
		text, err := io.ReadAll(read.Body)
		if err != nil || !strings.Contains(statuses, " "+read.Status[:3]+" ") || !read.Close || method != "HEAD" && int64(len(text)) != read.ContentLength {
			t.Errorf("%q: %q", sent, answer)
		}
		// There are few answers, so nothing of what was sent is in them.
		if expected[string(answer)] = true; len(expected) > 16 {
			t.Fatalf("%q", answer)
		}
		if !isPage {
			return
		}
		request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(sent[skipBlank(sent):])))
		if err != nil || request.URL.Path != "/healthz" && request.URL.Path != "/readyz" || request.Method != method {
			t.Errorf("%q: %v %+v", sent, err, request)
		}
	})
}

func TestText(t *testing.T) {
	var text Text
	text.Family("a_total", "counter", "A help.")
	text.Value("a_total", `{b="c"}`, 1e9)
	text.Histogram("d", []float64{0.1, 5}, []uint64{1, 0, 2}, 12.5)
	const want = `# HELP a_total A help.
# TYPE a_total counter
a_total{b="c"} 1e+09
d_bucket{le="0.1"} 1
d_bucket{le="5"} 1
d_bucket{le="+Inf"} 3
d_sum 12.5
d_count 3
`
	if string(text) != want {
		t.Errorf("%s", text)
	}
}
