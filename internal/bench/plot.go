package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The picture is as wide as a phone, so that its letters need no magnifying, and has a background of its own: on a
// transparent one, black letters vanish where the page is dark.
const (
	plotWidth = 360 * vg.Inch / 96
	rowHeight = 22 * vg.Inch / 96
	barHeight = 15 * vg.Inch / 96
	fontSize  = 14 * vg.Inch / 96
)

var (
	paper  = color.RGBA{0xfb, 0xfb, 0xf8, 0xff}
	ink    = color.RGBA{0x22, 0x22, 0x26, 0xff}
	ours   = color.RGBA{0x1f, 0x77, 0xb4, 0xff}
	theirs = color.RGBA{0xb8, 0xbc, 0xc2, 0xff}
)

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
	p := plot.New()
	p.BackgroundColor = paper
	p.HideAxes()
	rows := 0
	for _, c := range charts {
		rows += len(c.bars) + 2 // its title, and a gap
	}
	p.Y.Min, p.Y.Max = 0, float64(rows)
	p.X.Min, p.X.Max = 0, 1
	p.Add(bars{charts})
	w, err := p.WriterTo(plotWidth, rowHeight*vg.Length(rows)+rowHeight/2, strings.TrimPrefix(filepath.Ext(file), "."))
	if err != nil {
		return err
	}
	var picture bytes.Buffer
	if _, err := w.WriteTo(&picture); err != nil {
		return err
	}
	// An SVG names its font alone, and few phones have that. Arial's letters are as wide.
	return os.WriteFile(file, bytes.ReplaceAll(picture.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;")), 0o644)
}

// bars draws the charts: names to the left, bars on a scale of each chart's own, figures at their ends. Gonum's own bars
// share one scale, and their labels stand on an axis.
type bars struct{ charts []chart }

const (
	barsFrom = 0.31 // of the width
	barsTo   = 0.85
)

func (b bars) Plot(c draw.Canvas, p *plot.Plot) {
	style := p.X.Tick.Label
	style.Color, style.YAlign = ink, draw.YCenter
	style.Font.Size, style.Font.Variant = fontSize, "Sans"
	bold := style
	bold.Font.Weight = font.WeightBold

	top := c.Max.Y
	next := func() vg.Length { top -= rowHeight; return top + rowHeight/2 }
	at := func(x float64) vg.Length { return c.Min.X + vg.Length(x)*(c.Max.X-c.Min.X) }
	write := func(s draw.TextStyle, align draw.XAlignment, x, y vg.Length, text string) {
		s.XAlign = align
		c.FillText(s, vg.Point{X: x, Y: y}, text)
	}
	for _, chart := range b.charts {
		write(bold, draw.XLeft, c.Min.X, next(), chart.title)
		longest := 0.0
		for _, bar := range chart.bars {
			longest = math.Max(longest, bar.ratio)
		}
		for _, bar := range chart.bars {
			y := next()
			end := at(barsFrom + (barsTo-barsFrom)*bar.ratio/longest)
			fill := theirs
			if bar.ours {
				fill = ours
			}
			c.FillPolygon(fill, []vg.Point{
				{X: at(barsFrom), Y: y - barHeight/2}, {X: end, Y: y - barHeight/2},
				{X: end, Y: y + barHeight/2}, {X: at(barsFrom), Y: y + barHeight/2},
			})
			write(style, draw.XRight, at(barsFrom)-fontSize/3, y, bar.name)
			write(style, draw.XLeft, end+fontSize/3, y, fmt.Sprintf("%.2f", bar.ratio))
		}
		next()
	}
}
