package main

import (
	"fmt"
	"os"
)

type Point struct{ X, Y int32 }
type Wide struct {
	A uint64
	B float64
	C byte
	D [2]int16
}

var Sink int64
var Total = 17

//go:noinline
func scalars(a int8, b uint16, c int32, d uint64, e float32, f float64, g bool, h rune) int64 {
	sum := int64(a) + int64(b) + int64(c) + int64(d) + int64(e) + int64(f) + int64(h)
	if g {
		sum++
	}
	Sink += sum // stop scalars
	return sum
}

//go:noinline
func aggregates(p Point, w Wide, text string, list []uint16, q *Point) int64 {
	length := len(text) + len(list)
	total := int64(w.A) + int64(length) + int64(p.X) + int64(q.Y)
	Sink += total // stop aggregates
	return total
}

//go:noinline
func (p *Point) Move(by int32) int32 {
	before := p.X
	p.X += by
	Sink += int64(before) // stop Move
	return p.X + before
}

//go:noinline
func headers(m map[string]int, any interface{}, err error, f func(int) int, c chan int, list []Point, a [3]string) int {
	total := len(m) + len(list) + cap(c) + f(3)
	Sink += int64(total + len(a[1])) // stop headers
	return total
}

func main() {
	n := int32(len(os.Args))
	p := Point{3, -4}
	w := Wide{5, 6.5, 7, [2]int16{8, -9}}
	sum := scalars(-8, 65000, -70000, 1<<40, 1.5, -2.25, true, 'é')
	sum += aggregates(p, w, "text", []uint16{1, 2, 3}, &p)
	sum += int64(p.Move(n))
	sum += int64(headers(map[string]int{"a": 1}, p, nil, func(i int) int { return i + 1 }, make(chan int, 2),
		[]Point{{1, 2}, {3, 4}}, [3]string{"x", "yy", ""}))
	fmt.Println(sum&1, Total)
}
