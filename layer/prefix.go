package layer

// order is how the lengths of the codes for lengths of codes stand (section 3.2.7).
var order = [...]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamic reads the codes of a block that brings its own.
func (f *inflater) dynamic() error {
	if err := f.need(14); err != nil {
		return err
	}
	literals, distances, count := int(f.take(5))+257, int(f.take(5))+1, int(f.take(4))+4
	if literals > 286 || distances > 30 {
		return errCorrupt
	}
	const lengthBits = 7
	var lengths [len(order)]uint8
	for _, at := range order[:count] {
		if err := f.need(3); err != nil {
			return err
		}
		lengths[at] = uint8(f.take(3))
	}
	table := f.distances[:1<<lengthBits]
	if !f.build(table, lengthBits, lengths[:], func(symbol int) uint32 { return uint32(symbol) << 16 }) {
		return errCorrupt
	}
	for i := 0; i < literals+distances; {
		if err := f.need(lengthBits + 7); err != nil {
			return err
		}
		e := table[f.bits&(1<<lengthBits-1)]
		if e&isSpecial != 0 {
			return errCorrupt
		}
		f.take(uint(e & takes))
		symbol := e >> 16
		if symbol < 16 {
			f.lengths[i] = uint8(symbol)
			i++
			continue
		}
		var (
			repeat int
			value  uint8
		)
		switch symbol {
		case 16:
			if i == 0 {
				return errCorrupt
			}
			repeat, value = 3+int(f.take(2)), f.lengths[i-1]
		case 17:
			repeat = 3 + int(f.take(3))
		default:
			repeat = 11 + int(f.take(7))
		}
		if i+repeat > literals+distances {
			return errCorrupt
		}
		for range repeat {
			f.lengths[i] = value
			i++
		}
	}
	return f.tables(literals, distances)
}

// tables makes a block's tables of the lengths of its codes.
func (f *inflater) tables(literals, distances int) error {
	if !f.build(f.literals[:], literalBits, f.lengths[:literals], literalEntry) ||
		!f.build(f.distances[:], distanceBits, f.lengths[literals:literals+distances], distanceEntry) {
		return errCorrupt
	}
	f.state = inCodes
	return nil
}

// literalEntry and distanceEntry are what symbols mean (section 3.2.5), with the number of extra bits as what is taken.
func literalEntry(symbol int) uint32 {
	switch {
	case symbol < 256:
		return isLiteral | uint32(symbol)<<16
	case symbol == 256:
		return isEnd
	case symbol < 265:
		return uint32(symbol-257+3) << 16
	case symbol < 285:
		extra := uint32(symbol-261) / 4
		return ((4+uint32(symbol-261)%4)<<extra+3)<<16 | extra
	case symbol == 285:
		return longest << 16
	}
	return isNone
}

func distanceEntry(symbol int) uint32 {
	switch {
	case symbol < 4:
		return uint32(symbol+1) << 16
	case symbol < 30:
		extra := uint32(symbol-2) / 2
		return ((2+uint32(symbol)%2)<<extra+1)<<16 | extra
	}
	return isNone
}

// build makes a table of canonical codes of so many bits each (section 3.2.2). As compress/flate does, it refuses codes that
// are too many or, but for a single one and for none, too few.
func (f *inflater) build(table []uint32, primary uint, lengths []uint8, entry func(symbol int) uint32) bool {
	var counts, offsets [maxCode + 2]int
	for _, n := range lengths {
		counts[n]++
	}
	longestCode, space := 0, 0
	for n := 1; n <= maxCode; n++ {
		space = space<<1 + counts[n]
		if counts[n] > 0 {
			longestCode = n
		}
		offsets[n+1] = offsets[n] + counts[n]
	}
	for i := range 1 << primary {
		table[i] = isNone
	}
	if longestCode == 0 {
		return true
	}
	if space != 1<<maxCode && !(longestCode == 1 && counts[1] == 1) {
		return false
	}
	for symbol, n := range lengths {
		if n > 0 {
			f.sorted[offsets[n]] = uint16(symbol)
			offsets[n]++
		}
	}
	next, prefix, start, sub := 1<<primary, -1, 0, uint(0)
	code, i := 0, 0 // code as it stands in the stream: its first bit lowest
	for n := 1; n <= longestCode; n++ {
		for ; counts[n] > 0; counts[n]-- {
			e := entry(int(f.sorted[i]))
			i++
			if size := uint(n); size <= primary {
				e += uint32(size)<<8 | uint32(size)
				for at := code; at < 1<<primary; at += 1 << size {
					table[at] = e
				}
			} else {
				if low := code & (1<<primary - 1); low != prefix {
					prefix, start = low, next
					sub = size - primary
					for used := counts[n]; used < 1<<sub && int(primary+sub) < longestCode; {
						sub++
						used = used<<1 + counts[primary+sub]
					}
					next += 1 << sub
					if next > len(table) {
						return false
					}
					table[low] = isTable | uint32(start)<<16 | uint32(sub)<<8 | uint32(primary)
				}
				rest := size - primary
				e += uint32(rest)<<8 | uint32(rest)
				for at := code >> primary; at < 1<<sub; at += 1 << rest {
					table[start+at] = e
				}
			}
			// The next code is one more, read backwards.
			bit := 1 << (n - 1)
			for code&bit != 0 {
				code ^= bit
				bit >>= 1
			}
			code |= bit
		}
	}
	return true
}
