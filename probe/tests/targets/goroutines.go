// Functions of goroutines whose stacks move when they grow, on whichever thread. Prints, for every call that has
// returned, the function, its first argument, and its result, as those who called them have it.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

var (
	mutex sync.Mutex
	lines strings.Builder
)

func cameBack(function string, argument, result int) int {
	mutex.Lock()
	fmt.Fprintln(&lines, function, argument, result)
	mutex.Unlock()
	return result
}

// Needs more and more stack, and lets others run in between.
//
//go:noinline
func grow(n int) int {
	var frame [256]int
	frame[n%256] = n
	if n%1000 > 0 {
		runtime.Gosched()
		return cameBack("main.grow", n-1, grow(n-1)) + frame[n%256] - n + 1
	}
	return n
}

// Reports that it was left.
//
//go:noinline
func fails(n int) int {
	if n%2 == 1 {
		panic(n)
	}
	return n * 3
}

//go:noinline
func recovers(n int) (result int) {
	defer func() {
		if recover() != nil {
			result = -1
		}
	}()
	return cameBack("main.fails", n, fails(n))
}

func main() {
	runtime.GOMAXPROCS(4)
	count, _ := strconv.Atoi(os.Args[1])
	depth, _ := strconv.Atoi(os.Args[2])
	var group sync.WaitGroup
	for i := 1; i <= count; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			cameBack("main.grow", i*1000+depth, grow(i*1000+depth))
			for n := 0; n < 4; n++ {
				cameBack("main.recovers", i*1000+n, recovers(i*1000+n))
			}
		}(i)
	}
	group.Wait()
	runtime.GC()
	fmt.Print(lines.String())
}
