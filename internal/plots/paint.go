package main

import (
	"fmt"

	"github.com/zmqgrace/zmqgrace/internal/plots/picture"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

const (
	rowHeight = 24 * picture.Pixel
	barHeight = 16 * picture.Pixel
	margin    = 12 * picture.Pixel
	fontSize  = 15 * picture.Pixel
)

type bar struct {
	says string
	lost int
}

// paint writes the bars as an SVG.
func paint(all []bar, of int, file string) error {
	p := picture.New()
	p.Y.Min, p.Y.Max = 0, 1
	p.Add(bars{all, of})
	rows := vg.Length(2*len(all) + 1)
	return picture.Save(p, rowHeight*rows+2*margin, file)
}

// bars draws each name above its bar, where there is room for it on a phone, and the figure at the bar's end.
type bars struct {
	all []bar
	of  int
}

func (b bars) Plot(c draw.Canvas, p *plot.Plot) {
	style, bold := picture.Letters(p, fontSize)
	left, room := c.Min.X+margin, c.Max.X-c.Min.X-2*margin-4*fontSize // for the figure
	y := c.Max.Y - margin + rowHeight/2
	next := func() vg.Length { y -= rowHeight; return y }
	write := func(s draw.TextStyle, x vg.Length, text string) { c.FillText(s, vg.Point{X: x, Y: next()}, text) }

	write(bold, left, fmt.Sprintf("Requests lost of a burst of %s", thousands(b.of)))
	for _, bar := range b.all {
		write(style, left, bar.says)
		end := left + room*vg.Length(bar.lost)/vg.Length(b.of)
		next()
		if bar.lost > 0 {
			picture.Bar(c, picture.Red, left, end, y, barHeight)
			end += fontSize / 3
		}
		c.FillText(bold, vg.Point{X: end, Y: y}, thousands(bar.lost))
	}
}

// thousands writes n with a comma, up to 999,999.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}
