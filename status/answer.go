package status

import (
	"bytes"
	"strconv"
)

// Page is what GET and HEAD of a path are answered with.
type Page struct {
	Path string // such as "/healthz"
	// Get appends the content to a text and returns it, and whether all is well: else the status is
	// 503.
	Get func(text []byte) (content []byte, ok bool)
}

// contentType is that of all pages: the Prometheus text format, which is plain text.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// The statuses of answers.
const (
	ok               = "200 OK"
	badRequest       = "400 Bad Request"
	notFound         = "404 Not Found"
	methodNotAllowed = "405 Method Not Allowed\r\nAllow: GET, HEAD"
	headerTooLarge   = "431 Request Header Fields Too Large"
	unavailable      = "503 Service Unavailable"
)

// respond returns the answer to a header, which is too large if no empty line ends it, and whether
// it is a page. Nothing of the request is repeated in it.
func respond(header []byte, pages []Page) (answer []byte, isPage bool) {
	status, text := badRequest, []byte(nil)
	method, path, valid := parse(header)
	switch page := find(pages, path); {
	case headerEnd(header, 0) == 0:
		status = headerTooLarge
	case !valid:
	case page == nil:
		status = notFound
	case method != "GET" && method != "HEAD":
		status = methodNotAllowed
	default:
		isPage, status = true, ok
		var well bool
		if text, well = page.Get(nil); !well {
			status = unavailable
		}
	}
	if !isPage {
		phrase, _, _ := cut([]byte(status[4:]), '\r')
		text = append([]byte(phrase), '\n')
	}
	answer = append(answer, "HTTP/1.1 "+status+"\r\nContent-Type: "+contentType+
		"\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: "...)
	answer = strconv.AppendInt(answer, int64(len(text)), 10)
	answer = append(answer, "\r\n\r\n"...)
	if method == "HEAD" {
		return answer, isPage
	}
	return append(answer, text...), isPage
}

func find(pages []Page, path string) *Page {
	for i := range pages {
		if pages[i].Path == path {
			return &pages[i]
		}
	}
	return nil
}

// headerEnd returns the length of a header with the empty line that ends it; 0 if there is none in
// b, of which so many bytes were searched before. A lone line feed ends a line, too (RFC 9112
// section 2.2).
func headerEnd(b []byte, searched int) int {
	for i := max(skipBlank(b), searched-2); i < len(b); i++ {
		rest := b[i:]
		switch {
		case bytes.HasPrefix(rest, []byte("\n\n")):
			return i + 2
		case bytes.HasPrefix(rest, []byte("\n\r\n")):
			return i + 3
		}
	}
	return 0
}

// skipBlank returns the length of the empty lines in front of a request, which RFC 9112 section 2.2
// has a server ignore.
func skipBlank(b []byte) (n int) {
	for n < len(b) && (b[n] == '\r' || b[n] == '\n') {
		n++
	}
	return n
}

// parse reads a header (RFC 9112 sections 3 and 5). The path is without the query.
func parse(header []byte) (method, path string, valid bool) {
	lines := bytes.Split(header[skipBlank(header):], []byte("\n"))
	for i := range lines {
		lines[i] = bytes.TrimSuffix(lines[i], []byte("\r"))
		for _, c := range lines[i] {
			if c < ' ' && c != '\t' || c == 0x7F {
				return "", "", false
			}
		}
	}
	method, rest, _ := cut(lines[0], ' ')
	target, version, _ := cut([]byte(rest), ' ')
	if !isToken([]byte(method)) || version != "HTTP/1.1" && version != "HTTP/1.0" {
		return "", "", false
	}
	hosts := 0
	for _, line := range lines[1:] {
		name, _, found := cut(line, ':')
		if len(line) > 0 && (!found || !isToken([]byte(name))) {
			return "", "", false
		}
		if isHost(name) {
			hosts++
		}
	}
	if hosts > 1 || hosts == 0 && version == "HTTP/1.1" {
		return "", "", false
	}
	path, valid = pathOf(target)
	return method, path, valid
}

// isHost reports whether the name of a field is Host, in letters of any case.
func isHost(name string) bool {
	if len(name) != 4 {
		return false
	}
	for i := range 4 {
		if name[i]|0x20 != "host"[i] {
			return false
		}
	}
	return true
}

// pathOf returns the path of a request target in origin form or absolute form (RFC 9112 section
// 3.2). The only other form that has none is the asterisk.
func pathOf(target string) (string, bool) {
	if authority, absolute := cutPrefix(target, "http://"); absolute {
		end := bytes.IndexAny([]byte(authority), "/?#")
		if end < 0 || authority[end] != '/' {
			return "/", true // there is no page at it
		}
		target = authority[end:]
	}
	path, _, _ := cut([]byte(target), '?')
	for _, c := range []byte(path) {
		if c <= ' ' || c >= 0x7F {
			return "", false
		}
	}
	return path, path == "*" || len(path) > 0 && path[0] == '/'
}

func cut(b []byte, at byte) (before, after string, found bool) {
	i := bytes.IndexByte(b, at)
	if i < 0 {
		return string(b), "", false
	}
	return string(b[:i]), string(b[i+1:]), true
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return s, false
}

// isToken reports whether b may be a method or the name of a field (RFC 9110 section 5.6.2).
func isToken(b []byte) bool {
	for _, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) < 0:
			return false
		}
	}
	return len(b) > 0
}
