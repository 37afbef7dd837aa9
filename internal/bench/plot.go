package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/zmqgrace/zmqgrace/internal/plots/picture"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

const (
	rowHeight = 22 * picture.Pixel
	barHeight = 15 * picture.Pixel
	fontSize  = 14 * picture.Pixel
	margin    = 6 * picture.Pixel
)

// heading says what all charts show.
var heading = []string{
	"Messages a second, as ratios",
	"blue: zmqgrace; portable: on pebbe's calls alone",
}

// A chart is the ratios of one contest.
type chart struct {
	title string
	bars  []bar
}

type bar struct {
	name  string
	ratio float64
	ours  bool
}

// chart keeps the ratios of everybody to one of them for the plot, the best first.
func (b *bench) chart(c *contest, title, unit, rival string) {
	ch := chart{title: title}
	for _, o := range c.contestants {
		ch.bars = append(ch.bars, bar{o.name, o.ratio(unit, c.find(rival)), o.name == "zmqgrace" || o.name == "portable"})
	}
	slices.SortStableFunc(ch.bars, func(a, b bar) int {
		switch {
		case a.ratio > b.ratio:
			return -1
		case a.ratio < b.ratio:
			return 1
		}
		return 0
	})
	b.charts = append(b.charts, ch)
}

// paint writes the charts below each other as one picture.
func paint(charts []chart, file string) error {
	if len(charts) == 0 {
		return fmt.Errorf("nothing to plot: %s takes the ratios of echo, sink, fanout and proxy", file)
	}
	p := picture.New()
	rows := len(heading)
	for _, c := range charts {
		rows += len(c.bars) + 2 // a gap, and its title
	}
	p.Y.Min, p.Y.Max = 0, float64(rows)
	p.Add(bars{charts})
	return picture.Save(p, rowHeight*vg.Length(rows)+2*margin, file)
}

// bars draws the charts: names to the left, bars on a scale of each chart's own, figures at their ends. Gonum's own bars
// share one scale, and their labels stand on an axis.
type bars struct{ charts []chart }

const (
	barsFrom = 0.31 // of the width
	barsTo   = 0.85
)

func (b bars) Plot(c draw.Canvas, p *plot.Plot) {
	style, bold := picture.Letters(p, fontSize)
	top := c.Max.Y - margin
	next := func() vg.Length { top -= rowHeight; return top + rowHeight/2 }
	at := func(x float64) vg.Length { return c.Min.X + vg.Length(x)*(c.Max.X-c.Min.X) }
	write := func(s draw.TextStyle, align draw.XAlignment, x, y vg.Length, text string) {
		s.XAlign = align
		c.FillText(s, vg.Point{X: x, Y: y}, text)
	}
	write(bold, draw.XLeft, c.Min.X, next(), heading[0])
	for _, line := range heading[1:] {
		write(style, draw.XLeft, c.Min.X, next(), line)
	}
	for _, chart := range b.charts {
		next()
		write(bold, draw.XLeft, c.Min.X, next(), chart.title)
		longest := 0.0
		for _, bar := range chart.bars {
			longest = math.Max(longest, bar.ratio)
		}
		for _, bar := range chart.bars {
			y := next()
			end := at(barsFrom + (barsTo-barsFrom)*bar.ratio/longest)
			fill := picture.Grey
			if bar.ours {
				fill = picture.Blue
			}
			picture.Bar(c, fill, at(barsFrom), end, y, barHeight)
			write(style, draw.XRight, at(barsFrom)-fontSize/3, y, bar.name)
			write(style, draw.XLeft, end+fontSize/3, y, fmt.Sprintf("%.2f", bar.ratio))
		}
	}
}
