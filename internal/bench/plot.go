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
// transparent one, black letters vanish where the page is dark and its reader's system is not.
const (
	plotWidth = 360 * vg.Inch / 96
	rowHeight = 22 * vg.Inch / 96
	barHeight = 15 * vg.Inch / 96
	fontSize  = 14 * vg.Inch / 96
	margin    = 6 * vg.Inch / 96

	middle = -0.4 // of figures and capitals; draw.YCenter is that of what reaches below the line as well
)

var (
	paper  = color.RGBA{0xfb, 0xfb, 0xf8, 0xff}
	ink    = color.RGBA{0x22, 0x22, 0x26, 0xff}
	ours   = color.RGBA{0x1f, 0x77, 0xb4, 0xff}
	theirs = color.RGBA{0xb8, 0xbc, 0xc2, 0xff}
)

// dark has the picture dark where its reader's system is. Gonum writes each colour as a style of its element, which takes
// precedence over a sheet's unless that insists.
const dark = `<style>@media (prefers-color-scheme: dark) {
[style*="#FBFBF8"] { fill: #161B22 !important }
[style*="#222226"] { fill: #E6EDF3 !important }
[style*="#1F77B4"] { fill: #58A6FF !important }
[style*="#B8BCC2"] { fill: #6E7681 !important }
}</style>
`

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
	p := plot.New()
	p.BackgroundColor = paper
	p.HideAxes()
	rows := len(heading)
	for _, c := range charts {
		rows += len(c.bars) + 2 // a gap, and its title
	}
	p.Y.Min, p.Y.Max = 0, float64(rows)
	p.X.Min, p.X.Max = 0, 1
	p.Add(bars{charts})
	format := strings.TrimPrefix(filepath.Ext(file), ".")
	w, err := p.WriterTo(plotWidth, rowHeight*vg.Length(rows)+2*margin, format)
	if err != nil {
		return err
	}
	var picture bytes.Buffer
	if _, err := w.WriteTo(&picture); err != nil {
		return err
	}
	if format != "svg" {
		return os.WriteFile(file, picture.Bytes(), 0o644)
	}
	// An SVG names its font alone, and few phones have that. Arial's letters are as wide.
	text := strings.ReplaceAll(picture.String(), "font-family:Liberation Sans;", "font-family:Liberation Sans,Arial,Helvetica,sans-serif;")
	return os.WriteFile(file, []byte(strings.Replace(text, "<g ", dark+"<g ", 1)), 0o644)
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
	style.Color, style.YAlign = ink, middle
	style.Font.Size, style.Font.Variant = fontSize, "Sans"
	bold := style
	bold.Font.Weight = font.WeightBold

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
	}
}
