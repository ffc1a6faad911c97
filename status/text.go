package status

import "strconv"

// Text is a page in the Prometheus text format 0.0.4. Names, helps and labels are the program's
// own: they are written as they are.
type Text []byte

// Family begins a metric. kind is counter, gauge or histogram.
func (t *Text) Family(name, kind, help string) {
	*t = append(*t, "# HELP "+name+" "+help+"\n# TYPE "+name+" "+kind+"\n"...)
}

// Value writes a sample of a family. labels are as in `{a="b",c="d"}`, and empty for none.
func (t *Text) Value(name, labels string, value float64) {
	*t = append(*t, name+labels+" "+strconv.FormatFloat(value, 'g', -1, 64)+"\n"...)
}

// Histogram writes the samples of a histogram: how many values there are up to each bound and over
// the one before, then over the last, and their sum.
func (t *Text) Histogram(name string, bounds []float64, counts []uint64, sum float64) {
	all := uint64(0)
	for i, n := range counts {
		all += n
		bound := "+Inf"
		if i < len(bounds) {
			bound = strconv.FormatFloat(bounds[i], 'g', -1, 64)
		}
		t.Value(name, `_bucket{le="`+bound+`"}`, float64(all))
	}
	t.Value(name, "_sum", sum)
	t.Value(name, "_count", float64(all))
}
