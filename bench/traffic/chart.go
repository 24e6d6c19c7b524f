package main

import (
	"fmt"
	"math"
	"strings"
)

// The chart's size and the edges of its plot, in pixels.
const (
	chartWidth, chartHeight = 760, 460
	plotLeft, plotRight     = 70, 560
	plotTop, plotBottom     = 68, 392
	minCalls                = 0.95 // at the left edge
)

// line is the style of a stack in the chart.
type line struct {
	stack, color, marker string
	width                int
}

func lines() []line {
	return []line{
		{grpcAlone, "#6b7280", "square", 2},
		{native, "#f0a040", "triangle", 5}, // wide, because other lines cover it
		{throttled, "#9333ea", "diamond", 2},
		{middleware, "#0891b2", "cross", 2},
		{failsafely, "#dc2626", "down", 2},
		{hopbound, "#15803d", "circle", 2},
	}
}

// axes maps values to pixels.
type axes struct{ maxCalls, minSuccess float64 }

func (a axes) x(calls float64) float64 {
	return plotLeft + (calls-minCalls)/(a.maxCalls-minCalls)*(plotRight-plotLeft)
}

func (a axes) y(success float64) float64 {
	return plotBottom - (success-a.minSuccess)/(1-a.minSuccess)*(plotBottom-plotTop)
}

// chart draws user success against leaf calls per request as an SVG image.
func chart(rows []row) string {
	a := axesFor(rows)
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" font-family="system-ui, -apple-system, 'Segoe UI', sans-serif" font-size="13" fill="#1f2937" role="img">
<title>User success against leaf calls per request</title>
<rect width="%[1]d" height="%[2]d" rx="8" fill="#ffffff" stroke="#d1d5db"/>
<text x="%d" y="30" font-size="15" font-weight="600">Five services in a chain, the leaf fails 1, 5, 10, 20, 30 and 50 %% of its calls</text>
`, chartWidth, chartHeight, plotLeft)
	a.draw(&svg)
	for i, l := range lines() {
		l.draw(&svg, a, rows)
		y := float64(plotTop + 12 + 26*i)
		fmt.Fprintf(&svg, `<path d="M%d %.0fh28" stroke="%s" stroke-width="%d"/>`, plotRight+30, y, l.color, l.width)
		svg.WriteString(l.mark(plotRight+44, y))
		fmt.Fprintf(&svg, `<text x="%d" y="%.0f">%s</text>`+"\n", plotRight+68, y+4, l.stack)
	}
	svg.WriteString("</svg>\n")
	return svg.String()
}

// axesFor returns axes that contain all points.
func axesFor(rows []row) axes {
	a := axes{maxCalls: 1.1, minSuccess: 0.9}
	for _, r := range rows {
		if family(r.Shape) == "chart" {
			a.maxCalls = max(a.maxCalls, math.Ceil(r.LeafCalls*10+0.5)/10)
			a.minSuccess = min(a.minSuccess, math.Floor(r.Success*10-0.2)/10)
		}
	}
	return a
}

// draw draws the grid, the numbers and the names of the axes.
func (a axes) draw(svg *strings.Builder) {
	for success := a.minSuccess; success < 1.001; success += 0.1 {
		y := a.y(success)
		fmt.Fprintf(svg, `<path d="M%d %.1fH%d" stroke="#e5e7eb"/><text x="%d" y="%.1f" text-anchor="end">%.0f %%</text>`+"\n",
			plotLeft, y, plotRight, plotLeft-8, y+4, 100*success)
	}
	step := 0.1
	for (a.maxCalls-1)/step > 8 {
		step *= 2
	}
	for calls := 1.0; calls < a.maxCalls+0.001; calls += step {
		x := a.x(calls)
		fmt.Fprintf(svg, `<path d="M%.1f %dV%d" stroke="#e5e7eb"/><text x="%.1f" y="%d" text-anchor="middle">%.1f</text>`+"\n",
			x, plotTop, plotBottom, x, plotBottom+20, calls)
	}
	fmt.Fprintf(svg, `<path d="M%d %dV%dH%d" fill="none" stroke="#6b7280"/>`+"\n", plotLeft, plotTop, plotBottom, plotRight)
	fmt.Fprintf(svg, `<text x="%d" y="%d" text-anchor="middle">leaf calls per request</text>`+"\n", (plotLeft+plotRight)/2, plotBottom+46)
	fmt.Fprintf(svg, `<text transform="translate(20 %d) rotate(-90)" text-anchor="middle">requests that succeed</text>`+"\n", (plotTop+plotBottom)/2)
}

// draw draws the points of a stack and the line through them.
func (l line) draw(svg *strings.Builder, a axes, rows []row) {
	var path, marks strings.Builder
	for i, percent := range chartPercents() {
		r, ok := find(rows, l.stack, fmt.Sprintf("chart/fail=%d%%", percent))
		if !ok {
			continue
		}
		x, y := a.x(r.LeafCalls), a.y(r.Success)
		command := "L"
		if i == 0 {
			command = "M"
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", command, x, y)
		fmt.Fprintf(&marks, "<g><title>%s, %d %% fail: %.4f succeed with %.3f leaf calls per request</title>%s</g>\n",
			l.stack, percent, r.Success, r.LeafCalls, l.mark(x, y))
		if l.stack == native {
			fmt.Fprintf(&marks, `<text x="%.1f" y="%.1f" font-size="10" text-anchor="middle">%d %%</text>`+"\n", x, y-10, percent)
		}
	}
	fmt.Fprintf(svg, `<path d="%s" fill="none" stroke="%s" stroke-width="%d" stroke-linejoin="round"/>`+"\n%s", path.String(), l.color, l.width, marks.String())
}

// mark draws the stack's marker.
func (l line) mark(x, y float64) string {
	var d string
	switch l.marker {
	case "circle":
		d = "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z"
	case "square":
		d = "m-4 -4h8v8h-8z"
	case "triangle":
		d = "m0 -5l5 9h-10z"
	case "down":
		d = "m0 5l5 -9h-10z"
	case "diamond":
		d = "m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z"
	default:
		d = "m-4 -4l8 8m0 -8l-8 8"
	}
	return fmt.Sprintf(`<path d="M%.1f %.1f%s" fill="%s" stroke="%s" stroke-width="1.5"/>`, x, y, d, l.color, l.color)
}
