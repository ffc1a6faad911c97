package deploy

import (
	"bytes"
	"fmt"
	"html"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flytftp/internal/testkit"
)

// load lets clients of every kind boot, in waves, until the time for the picture is over.
func (s *scraped) load(t *testing.T) {
	t.Helper()
	var clients sync.WaitGroup
	begin := time.Now()
	for time.Since(begin) < *duration {
		// More and less in turn: 1 to 13 clients in half a second.
		wave := 7 + 6*math.Sin(2*math.Pi*time.Since(begin).Seconds()/90)
		for range int(wave) {
			clients.Go(func() {
				time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
				c := []client{near, near, wide, far, far, bare}[rand.IntN(6)]
				if c.delay > 0 { // each at its own distance
					c.delay = time.Duration(rand.ExpFloat64() * float64(c.delay))
				}
				c.fetch(s.tftp, "pxelinux.cfg/01-52-54-00-12-34-56")
				c.fetch(s.tftp, "small.ipxe")
				c.fetch(s.tftp, "large.img")
			})
		}
		if rand.IntN(12) == 0 {
			leaves.fetch(s.tftp, "large.img")
		}
		if rand.IntN(4) == 0 {
			s.send("\x00\x02small.ipxe\x00octet\x00", "\x00\x01small.ipxe\x00mail\x00", "garbage", "\x00\x04\x00\x07", "\x00\x04\x00\x08")
		}
		time.Sleep(500 * time.Millisecond)
	}
	clients.Wait()
}

// The picture has the form of Grafana's: 24 columns, and rows of equal height.
const (
	column, row, gap  = 50, 32, 8
	margin, head      = 44, 26 // of a panel: left of the axis, above it
	lines             = 240    // points of a line
	textColour, faint = "#24292e", "#d8dce1"
)

var colours = []string{"#3274d9", "#e0752d", "#299c46", "#b877d9", "#e02f44", "#1f9aa5", "#c4a000", "#7a5c3e", "#5a6570"}

// draw draws the dashboard with what Prometheus has.
func (s *scraped) draw(t *testing.T) {
	t.Helper()
	var svg strings.Builder
	d, height := readDashboard(t), 0
	for _, p := range d.Panels {
		height = max(height, (p.GridPos.Y+p.GridPos.H)*row)
	}
	const top = 34
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="DejaVu Sans" font-size="11" fill="%s">`, 24*column, height+top, textColour)
	fmt.Fprintf(&svg, `<rect width="100%%" height="100%%" fill="#f4f5f5"/><text x="8" y="23" font-size="16" font-weight="bold">%s</text>`, d.Title)
	fmt.Fprintf(&svg, `<text x="%d" y="23" text-anchor="end">drawn from Prometheus by deploy/picture_test.go, not by Grafana</text>`, 24*column-8)
	for _, p := range d.Panels {
		x, y, w, h := p.GridPos.X*column, top+p.GridPos.Y*row, p.GridPos.W*column-gap, p.GridPos.H*row-gap
		fmt.Fprintf(&svg, `<g transform="translate(%d %d)"><rect width="%d" height="%d" fill="white" stroke="%s"/><text x="8" y="17" font-weight="bold">%s</text>`,
			x+gap/2, y, w, h, faint, html.EscapeString(p.Title))
		if p.Type == "stat" {
			answer, err := s.ask(p.Targets[0].Expr, 0)
			testkit.Must(t, err)
			text := "no data"
			if len(answer) > 0 {
				text = inUnit(answer[0].Value.value, p.FieldConfig.Defaults.Unit)
			}
			fmt.Fprintf(&svg, `<text x="%d" y="%d" text-anchor="middle" font-size="34" fill="%s">%s</text>`, w/2, h/2+22, colours[0], text)
		} else {
			s.plot(t, &svg, p, w, h)
		}
		svg.WriteString("</g>\n")
	}
	svg.WriteString("</svg>\n")
	convert := exec.Command("rsvg-convert")
	convert.Stdin, convert.Stderr = strings.NewReader(svg.String()), os.Stderr
	drawn, err := convert.Output()
	testkit.Must(t, err)
	full, err := png.Decode(bytes.NewReader(drawn))
	testkit.Must(t, err)
	small := image.NewPaletted(full.Bounds(), shades(t))
	draw.Draw(small, small.Bounds(), full, image.Point{}, draw.Src)
	file, err := os.Create(*picture)
	testkit.Must(t, err)
	testkit.Must(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(file, small))
	testkit.Must(t, file.Close())
}

// shades returns a palette of every colour of the picture in steps to white: a third of the bytes.
func shades(t *testing.T) (palette color.Palette) {
	t.Helper()
	const steps = 16
	for _, colour := range append([]string{textColour, faint, "#f4f5f5"}, colours...) {
		var c [3]int
		_, err := fmt.Sscanf(colour, "#%02x%02x%02x", &c[0], &c[1], &c[2])
		testkit.Must(t, err)
		for step := range steps {
			lighter := func(value int) uint8 { return uint8(value + (255-value)*step/steps) }
			palette = append(palette, color.RGBA{lighter(c[0]), lighter(c[1]), lighter(c[2]), 255})
		}
	}
	return append(palette, color.White)
}

// line is one line of a plot.
type line struct {
	name   string
	points []sample
}

// plot draws the lines of a panel.
func (s *scraped) plot(t *testing.T, svg *strings.Builder, p panel, w, h int) {
	t.Helper()
	now := time.Now()
	var all []line
	for _, target := range p.Targets {
		answer, err := s.ask(target.Expr, max(time.Second, now.Sub(s.beginning)/lines))
		testkit.Must(t, err)
		for _, found := range answer {
			name := target.LegendFormat
			for _, label := range []string{"result", "reason", "region", "version", "instance"} {
				name = strings.ReplaceAll(name, "{{"+label+"}}", found.Metric[label])
			}
			values := slices.DeleteFunc(found.Values, func(v sample) bool { return math.IsNaN(v.value) })
			all = append(all, line{strings.TrimSpace(name), values})
		}
	}
	stacked := p.FieldConfig.Defaults.Custom.Stacking.Mode == "normal"
	base := map[float64]float64{} // the sum of the lines below, by time
	most := 0.0
	for i := range all {
		for j, v := range all[i].points {
			if stacked {
				base[v.at] += v.value
				all[i].points[j].value = base[v.at]
			}
			most = max(most, all[i].points[j].value)
		}
	}
	if most == 0 {
		most = 1
	}
	if limit := p.FieldConfig.Defaults.Max; limit != nil {
		most = *limit
	} else {
		most *= 1.05
	}
	names := max(1, min(4, len(all))) // in a row of the legend
	rows := (len(all) + names - 1) / names
	left, right, above, below := margin+10, w-10, head+4, h-22-14*rows
	begin, end := float64(s.beginning.Unix()), float64(now.Unix())
	at := func(v sample) (x, y float64) {
		return float64(left) + (v.at-begin)/(end-begin)*float64(right-left), float64(below) - v.value/most*float64(below-above)
	}
	for i := range 4 {
		_, y := at(sample{begin, most * float64(i) / 3})
		fmt.Fprintf(svg, `<path d="M%d %.1fH%d" stroke="%s"/><text x="%d" y="%.1f" text-anchor="end" font-size="9">%s</text>`,
			left, y, right, faint, left-4, y+3, inUnit(most*float64(i)/3, p.FieldConfig.Defaults.Unit))
	}
	for i := range 4 {
		seconds := (end - begin) * float64(i) / 4
		x, _ := at(sample{begin + seconds, 0})
		fmt.Fprintf(svg, `<text x="%.1f" y="%d" font-size="9">%s</text>`, x, below+12, time.Duration(seconds*1e9).Round(time.Second))
	}
	for i := len(all) - 1; i >= 0; i-- { // the highest of a stack first
		colour := colours[i%len(colours)]
		path := ""
		for j, v := range all[i].points {
			x, y := at(v)
			path += fmt.Sprintf("%c%.1f %.1f", "ML"[min(j, 1)], x, y)
		}
		if path == "" {
			continue
		}
		if stacked {
			first, _ := at(all[i].points[0])
			final, _ := at(all[i].points[len(all[i].points)-1])
			fmt.Fprintf(svg, `<path d="%sL%.1f %dL%.1f %dZ" fill="%s" stroke="white" stroke-width="0.5"/>`, path, final, below, first, below, colour)
		} else {
			fmt.Fprintf(svg, `<path d="%s" fill="none" stroke="%s" stroke-width="1.3"/>`, path, colour)
		}
	}
	for i, l := range all {
		x, y := 10+i%names*((w-10)/names), h-8-14*(rows-1-i/names)
		name := l.name
		if runes, most := []rune(name), w/names/8; len(runes) > most {
			name = string(runes[:most]) + "…"
		}
		fmt.Fprintf(svg, `<rect x="%d" y="%d" width="9" height="3" fill="%s"/><text x="%d" y="%d" font-size="9">%s</text>`,
			x, y-4, colours[i%len(colours)], x+12, y, html.EscapeString(name))
	}
}

// inUnit writes a value in a unit of Grafana.
func inUnit(value float64, unit string) string {
	short := func(value float64) string {
		for _, prefix := range []struct {
			factor float64
			name   string
		}{{1e9, " G"}, {1e6, " M"}, {1e3, " k"}} {
			if math.Abs(value) >= prefix.factor {
				return fmt.Sprintf("%.3g%s", value/prefix.factor, prefix.name)
			}
		}
		return fmt.Sprintf("%.3g", value)
	}
	switch unit {
	case "percentunit":
		return fmt.Sprintf("%.3g %%", value*100)
	case "s":
		if value < 1 {
			return fmt.Sprintf("%.3g ms", value*1000)
		}
		return fmt.Sprintf("%.3g s", value)
	case "bytes":
		return short(value) + "B"
	case "Bps":
		return short(value) + "B/s"
	case "reqps", "pps", "ops":
		return short(value) + "/s"
	}
	return short(math.Round(value*100) / 100)
}
