// Package secrets is parsed by a test, and never compiled.
package secrets

func hashes(token string, c cached) bool {
	return bytes.Equal(hashOf(token), c.hash) // leaks
}

func fixed(token string, c cached) bool {
	sum := sha256.Sum256([]byte(token))
	return sum == c.sum // leaks
}

func forms(c *gin.Context, w *Web, cookie string) bool {
	if c.PostForm("csrf") != w.csrf(cookie) { // leaks
		return false
	}
	sent := strings.TrimSpace(c.PostForm("csrf"))
	want := derived(cookie)
	return sent == want // leaks
}

func flows(f Flow, r Returned) error {
	switch {
	case f.State == "" || f.State != r.State: // leaks
		return errState
	case string(f.Nonce) == string(r.Other): // leaks
		return nil
	}
	switch r.Password {
	case f.stored: // leaks
	case "":
	}
	if !slices.Contains(f.all, r.clientSecret) || strings.HasPrefix(r.AccessToken, f.start) { // leaks
		return nil
	}
	return nil
}

func headers(r *http.Request, s Server) bool {
	if got := r.Header.Get("Authorization"); got == s.expected { // leaks
		return true
	}
	return reflect.DeepEqual(s.key.mac, s.sum(r)) // leaks
}

func passed(token string, c cached) bool { return same(hashOf(token), c.sum) }

func same(a, b []byte) bool { return again(a, b) }

func again(a, b []byte) bool { return string(a) == string(b) } // leaks

func fine(token string, c cached, f Flow) bool {
	if token == "" || c.hash == nil || len(c.hash) == 32 || len(token) != c.length || "Bearer" == token {
		return false
	}
	if c.tokenID == f.tokenID || c.role == f.role || f.build.State == artifact.BuildDone || f.build.Phase() == done {
		return false
	}
	if strings.HasPrefix(token, "wbt_") || slices.Contains([]string{"a"}, c.role) {
		return false
	}
	return subtle.ConstantTimeCompare(hashOf(token), c.hash) == 1 && hmac.Equal([]byte(token), c.hash) && subtle.ConstantTimeCompare(x, y) != 1
}
