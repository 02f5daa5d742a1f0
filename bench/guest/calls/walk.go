// Walks over a directory and reads all files in it.
package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

func main() {
	bytes := 0
	filepath.WalkDir(os.Args[1], func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			content, _ := os.ReadFile(path)
			bytes += len(content)
		}
		return nil
	})
	fmt.Println(bytes)
}
