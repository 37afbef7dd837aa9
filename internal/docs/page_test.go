package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

// A page is a Markdown file, as far as it is looked at.
type page struct {
	path    string
	links   []link
	blocks  []block
	anchors map[string]bool
}

type link struct {
	line   int
	target string
}

type block struct {
	line     int // of its first line of code
	language string
	from     string // the file that it is quoted from
	text     string
}

var (
	fromLine   = regexp.MustCompile(`^<!-- from: (\S+) -->$`)
	heading    = regexp.MustCompile(`^#{1,6} +(.*?)[ #]*$`)
	inlineLink = regexp.MustCompile(`\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)`)
	defined    = regexp.MustCompile(`^ {0,3}\[[^\]]+\]:\s+<?([^\s>]+)`)
	codeSpan   = regexp.MustCompile("`[^`]*`")
	htmlLink   = regexp.MustCompile(`(?:href|src|srcset)="([^"]+)"`)
	htmlAnchor = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
)

func readPage(path, text string) (*page, error) {
	p := &page{path: path, anchors: make(map[string]bool)}
	var open *block // whose end has not come
	from := ""
	for i, line := range strings.Split(text, "\n") {
		switch fence := strings.TrimSpace(line); {
		case open != nil && fence == "```":
			p.blocks = append(p.blocks, *open)
			open, from = nil, ""
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(fence, "```"):
			open = &block{line: i + 2, language: strings.TrimPrefix(fence, "```"), from: from}
		case fromLine.MatchString(fence):
			from = fromLine.FindStringSubmatch(fence)[1]
		case fence != "":
			if from != "" {
				return nil, fmt.Errorf("%s:%d: no block follows the quoted file %s", path, i+1, from)
			}
			p.readText(i+1, line)
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: the block is not closed", path, open.line)
	}
	return p, nil
}

func (p *page) readText(n int, line string) {
	if h := heading.FindStringSubmatch(line); h != nil {
		p.addHeading(h[1])
	}
	for _, a := range htmlAnchor.FindAllStringSubmatch(line, -1) {
		p.anchors[a[1]] = true
	}
	// A link's text may be code, but a code span is no link.
	line = codeSpan.ReplaceAllStringFunc(line, func(s string) string { return strings.Repeat("x", len(s)) })
	for _, re := range []*regexp.Regexp{inlineLink, defined, htmlLink} {
		for _, found := range re.FindAllStringSubmatch(line, -1) {
			p.links = append(p.links, link{n, found[1]})
		}
	}
}

// addHeading gives a heading its anchor as GitHub does: lower case, only letters, digits, - and _, spaces as -, and a
// number behind what comes again.
func (p *page) addHeading(text string) {
	text = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(text, "$1")
	anchor := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, text)
	unique := anchor
	for n := 1; p.anchors[unique]; n++ {
		unique = fmt.Sprintf("%s-%d", anchor, n)
	}
	p.anchors[unique] = true
}

// follow reports why a link leads nowhere. What is elsewhere on the network is not looked at.
func (p *page) follow(l link) error {
	if strings.Contains(l.target, "://") || strings.HasPrefix(l.target, "mailto:") {
		return nil
	}
	file, anchor, hasAnchor := strings.Cut(l.target, "#")
	if strings.HasPrefix(file, "/") {
		return fmt.Errorf("the link %s is not relative", l.target)
	}
	there := p
	if file != "" {
		path := filepath.Join(filepath.Dir(p.path), file)
		if _, err := os.Stat(path); err != nil {
			return err
		}
		if !hasAnchor {
			return nil
		}
		if !strings.HasSuffix(path, ".md") {
			return fmt.Errorf("the link %s has an anchor in what is no page", l.target)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if there, err = readPage(path, string(text)); err != nil {
			return err
		}
	}
	if hasAnchor && !there.anchors[anchor] {
		return fmt.Errorf("%s has no heading for the link %s", there.path, l.target)
	}
	return nil
}
