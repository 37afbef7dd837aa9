// Package picture is what the plots of this repository have in common. They are as wide as a phone, so that their letters need no
// magnifying, and have a background of their own: on a transparent one, black letters vanish where the page is dark and its
// reader's system is not.
package picture

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

const (
	Pixel  = vg.Inch / 96
	width  = 360 * Pixel
	middle = -0.4 // of figures and capitals; draw.YCenter is that of what reaches below the line as well
)

// The colours. Others would have no dark counterpart.
var (
	Paper = color.RGBA{0xfb, 0xfb, 0xf8, 0xff}
	Ink   = color.RGBA{0x22, 0x22, 0x26, 0xff}
	Red   = color.RGBA{0xc4, 0x4e, 0x3d, 0xff}
	Blue  = color.RGBA{0x1f, 0x77, 0xb4, 0xff}
	Grey  = color.RGBA{0xb8, 0xbc, 0xc2, 0xff}
)

var inTheDark = []struct {
	light color.RGBA
	dark  string
}{{Paper, "#161B22"}, {Ink, "#E6EDF3"}, {Red, "#E5705C"}, {Blue, "#58A6FF"}, {Grey, "#6E7681"}}

// New makes an empty plot, whose X goes from 0 to 1.
func New() *plot.Plot {
	p := plot.New()
	p.BackgroundColor = Paper
	p.HideAxes()
	p.X.Min, p.X.Max = 0, 1
	return p
}

// Letters are those of a plot, in a size.
func Letters(p *plot.Plot, size vg.Length) (plain, bold draw.TextStyle) {
	plain = p.X.Tick.Label
	plain.Color, plain.YAlign, plain.XAlign = Ink, middle, draw.XLeft
	plain.Font.Size, plain.Font.Variant = size, "Sans"
	bold = plain
	bold.Font.Weight = font.WeightBold
	return plain, bold
}

// Bar draws a bar around y.
func Bar(c draw.Canvas, fill color.Color, left, right, y, height vg.Length) {
	c.FillPolygon(fill, []vg.Point{
		{X: left, Y: y - height/2}, {X: right, Y: y - height/2}, {X: right, Y: y + height/2}, {X: left, Y: y + height/2},
	})
}

// Save writes a plot to a file of a format that gonum knows by its extension. An SVG is dark where its reader's system is.
func Save(p *plot.Plot, height vg.Length, file string) error {
	format := strings.TrimPrefix(filepath.Ext(file), ".")
	w, err := p.WriterTo(width, height, format)
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
	return os.WriteFile(file, []byte(strings.Replace(text, "<g ", darkStyle(text)+"<g ", 1)), 0o644)
}

// darkStyle gives the colours of an SVG their dark counterparts. Gonum writes each colour as a style of its element, which takes
// precedence over a sheet's unless that insists.
func darkStyle(svg string) string {
	sheet := "<style>@media (prefers-color-scheme: dark) {\n"
	for _, c := range inTheDark {
		if light := fmt.Sprintf("#%02X%02X%02X", c.light.R, c.light.G, c.light.B); strings.Contains(svg, light) {
			sheet += fmt.Sprintf("[style*=%q] { fill: %s !important }\n", light, c.dark)
		}
	}
	return sheet + "}</style>\n"
}
