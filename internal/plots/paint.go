package main

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"strings"

	"golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The picture is as wide as a phone, so that its letters need no magnifying, and has a background of its own: on a
// transparent one, black letters vanish where the page is dark and its reader's system is not.
const (
	pixel     = vg.Inch / 96
	width     = 360 * pixel
	rowHeight = 24 * pixel
	barHeight = 16 * pixel
	margin    = 12 * pixel
	fontSize  = 15 * pixel

	middle = -0.4 // of figures and capitals; draw.YCenter is that of what reaches below the line as well
)

var (
	paper = color.RGBA{0xfb, 0xfb, 0xf8, 0xff}
	ink   = color.RGBA{0x22, 0x22, 0x26, 0xff}
	loss  = color.RGBA{0xc4, 0x4e, 0x3d, 0xff}
)

// dark has the picture dark where its reader's system is. Gonum writes each colour as a style of its element, which takes
// precedence over a sheet's unless that insists.
const dark = `<style>@media (prefers-color-scheme: dark) {
[style*="#FBFBF8"] { fill: #161B22 !important }
[style*="#222226"] { fill: #E6EDF3 !important }
[style*="#C44E3D"] { fill: #E5705C !important }
}</style>
`

type bar struct {
	says string
	lost int
}

// paint writes the bars as an SVG.
func paint(all []bar, of int, file string) error {
	p := plot.New()
	p.BackgroundColor = paper
	p.HideAxes()
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1, 0, 1
	p.Add(bars{all, of})
	rows := vg.Length(2*len(all) + 1)
	w, err := p.WriterTo(width, rowHeight*rows+2*margin, "svg")
	if err != nil {
		return err
	}
	var picture bytes.Buffer
	if _, err := w.WriteTo(&picture); err != nil {
		return err
	}
	// An SVG names its font alone, and few phones have that. Arial's letters are as wide.
	text := strings.ReplaceAll(picture.String(), "font-family:Liberation Sans;", "font-family:Liberation Sans,Arial,Helvetica,sans-serif;")
	return os.WriteFile(file, []byte(strings.Replace(text, "<g ", dark+"<g ", 1)), 0o644)
}

// bars draws each name above its bar, where there is room for it on a phone, and the figure at the bar's end.
type bars struct {
	all []bar
	of  int
}

func (b bars) Plot(c draw.Canvas, p *plot.Plot) {
	style := p.X.Tick.Label
	style.Color, style.YAlign, style.XAlign = ink, middle, draw.XLeft
	style.Font.Size, style.Font.Variant = fontSize, "Sans"
	bold := style
	bold.Font.Weight = font.WeightBold

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
			c.FillPolygon(loss, []vg.Point{
				{X: left, Y: y - barHeight/2}, {X: end, Y: y - barHeight/2}, {X: end, Y: y + barHeight/2}, {X: left, Y: y + barHeight/2},
			})
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
