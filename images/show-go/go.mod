module show

go 1.21
