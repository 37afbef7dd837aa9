package main

import (
	"fmt"
	"slices"
	"strings"
)

// The units of what is measured, as benchstat reads them. It takes lower values for better ones, except where the recorder
// tells it otherwise.
const (
	iterations = "iterations" // not a unit: what the other values are an average of
	nsPerOp    = "ns/op"
	msgPerSec  = "msg/s"
	cpuPerMsg  = "cpu-ns/msg"
	p50        = "p50-ns"
	p99        = "p99-ns"
)

// A sample is what one turn gave, by unit.
type sample map[string]float64

// A contestant is one of the servers that take turns.
type contestant struct {
	name, what string
	turn       func(round int) (sample, error)
	samples    []sample // one a round
}

func (c *contestant) values(unit string) (values []float64) {
	for _, s := range c.samples {
		values = append(values, s[unit])
	}
	return values
}

func (c *contestant) median(unit string) float64 { return median(c.values(unit)) }

// ratio is the median of the rounds' ratios. It strays less than the ratio of the medians: both sides share what disturbed a
// round.
func (c *contestant) ratio(unit string, to *contestant) float64 {
	a, b := c.values(unit), to.values(unit)
	for i := range a {
		a[i] /= b[i]
	}
	return median(a)
}

// A contest has its contestants do the same thing in turns.
type contest struct {
	name        string // for benchstat: "Echo/bytes=32"
	title       string
	rounds      int
	contestants []*contestant
	columns     []column
	legend      []string // who could not take part
}

// A column of a contest's table is a median, a spread, or a ratio.
type column struct {
	head string
	cell func(*contestant) string
}

// of is a column of medians. Values are divided by scale.
func of(head, unit string, scale float64, digits int) column {
	return column{head, func(c *contestant) string { return fmt.Sprintf("%.*f", digits, c.median(unit)/scale) }}
}

// from and upTo are columns of the smallest and the largest values.
func from(head, unit string, scale float64, digits int) column {
	return column{head, func(c *contestant) string { return fmt.Sprintf("%.*f", digits, slices.Min(c.values(unit))/scale) }}
}

func upTo(head, unit string, scale float64, digits int) column {
	return column{head, func(c *contestant) string { return fmt.Sprintf("%.*f", digits, slices.Max(c.values(unit))/scale) }}
}

// to is a column of ratios to one contestant, or, where several share its name but for a suffix, to the one with one's own.
func (c *contest) to(head, unit, rival string) column {
	return column{head, func(o *contestant) string {
		name := rival
		if i := strings.IndexByte(o.name, '/'); i >= 0 {
			name += o.name[i:]
		}
		return fmt.Sprintf("%.2f", o.ratio(unit, c.find(name)))
	}}
}

// rates are the columns of a throughput's table.
func rates() []column {
	return []column{of("msg/s", msgPerSec, 1, 0), from("slowest", msgPerSec, 1, 0), upTo("fastest", msgPerSec, 1, 0), of("CPU us/msg", cpuPerMsg, 1e3, 2)}
}

func (c *contest) find(name string) *contestant {
	i := slices.IndexFunc(c.contestants, func(o *contestant) bool { return o.name == name })
	return c.contestants[i]
}

// hold lets everybody take their turns, records what they gave, and prints the table.
func (b *bench) hold(c *contest) error {
	if b.rounds > 0 {
		c.rounds = b.rounds
	}
	for round := range c.rounds {
		for k := range c.contestants {
			o := c.contestants[(round+k)%len(c.contestants)] // nobody always is the first
			progress("%s: round %d of %d: %s", c.name, round+1, c.rounds, o.name)
			s, err := o.turn(round)
			if err != nil {
				return fmt.Errorf("%s: %w", o.name, err)
			}
			o.samples = append(o.samples, s)
			b.record.write(c.name, o.name, s)
		}
	}
	progress("")

	title("%s, medians of %d rounds", c.title, c.rounds)
	head := []string{"server"}
	for _, col := range c.columns {
		head = append(head, col.head)
	}
	t := table{append(head, "")}
	for _, o := range c.contestants {
		row := []string{o.name}
		for _, col := range c.columns {
			row = append(row, col.cell(o))
		}
		t = append(t, append(row, o.what))
	}
	t.print()
	for _, line := range c.legend {
		fmt.Println(line)
	}
	return nil
}

// A mark is a figure that the library promises.
type mark struct {
	what, wanted, measured string
	met                    bool
}

// atLeast and atMost hold one contestant against another.
func (b *bench) atLeast(c *contest, unit, name, rival string, limit float64) {
	b.promiseRatio(c, unit, name, rival, ">=", limit, func(r float64) bool { return r >= limit })
}

func (b *bench) atMost(c *contest, unit, name, rival string, limit float64) {
	b.promiseRatio(c, unit, name, rival, "<=", limit, func(r float64) bool { return r <= limit })
}

func (b *bench) promiseRatio(c *contest, unit, name, rival, sign string, limit float64, met func(float64) bool) {
	r := c.find(name).ratio(unit, c.find(rival))
	b.promise(fmt.Sprintf("%s %s: %s / %s", c.name, unit, name, rival), fmt.Sprintf("%s %.2f", sign, limit), fmt.Sprintf("%.2f", r), met(r))
}

func (b *bench) promise(what, wanted, measured string, met bool) {
	b.marks = append(b.marks, mark{what, wanted, measured, met})
}

func (b *bench) printMarks() (missed bool) {
	if len(b.marks) == 0 {
		return false
	}
	title("What is promised")
	t := table{{"figure", "mark", "measured", ""}}
	for _, m := range b.marks {
		verdict := "ok"
		if !m.met {
			verdict, missed = "MISSED", true
		}
		t = append(t, []string{m.what, m.wanted, m.measured, verdict})
	}
	t.print()
	return missed
}

// A table has words in its first and its last column, and figures between them.
type table [][]string

func (t table) print() {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, row := range t {
		var line strings.Builder
		for i, cell := range row {
			switch i {
			case 0:
				fmt.Fprintf(&line, "%-*s", widths[i], cell)
			case len(row) - 1:
				fmt.Fprintf(&line, "   %s", cell)
			default:
				fmt.Fprintf(&line, "   %*s", widths[i], cell)
			}
		}
		fmt.Println(strings.TrimRight(line.String(), " "))
	}
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
