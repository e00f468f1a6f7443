package server

import (
	"encoding/base64"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/auth"
)

// token issues an access token: by GET with basic credentials (distribution "Token Authentication Specification"), or
// by POST as OAuth2's password grant ("OAuth2 Token Authentication").
func (s *Server) token(c *gin.Context) error {
	authorization, scopes := c.GetHeader("Authorization"), c.QueryArray("scope")
	if c.Request.Method == http.MethodPost {
		c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, maxJSON)
		scopes = c.PostFormArray("scope")
		switch grant := c.PostForm("grant_type"); grant {
		case "password":
			authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(c.PostForm("username")+":"+c.PostForm("password")))
		case "refresh_token":
			authorization = "Bearer " + c.PostForm("refresh_token")
		default:
			return artifact.Errorf(artifact.Invalid, "grant_type %.40q is not offered; want password", grant)
		}
	}
	asked, err := auth.ParseScopes(scopes)
	if err != nil {
		return err
	}
	id, err := s.cfg.Authenticator.FromRequest(c.Request.Context(), authorization)
	now := s.cfg.Now()
	if err == nil && authorization == "" {
		if access, life, err := s.cfg.AccessTokens.IssuePublic(asked, s.isPublic, now); err == nil {
			return grantAccess(c, access, life, now)
		}
	}
	if err == nil && id.Principal.Anonymous() {
		err = artifact.Coded(artifact.Unauthentic, "UNAUTHORIZED", "sign in with any user name and a Waybill token as the password")
	}
	if err != nil {
		c.Header("WWW-Authenticate", `Basic realm="waybill", charset="UTF-8"`)
		return err
	}
	access, life, err := s.cfg.AccessTokens.Issue(id, asked, now)
	if err != nil {
		return err
	}
	return grantAccess(c, access, life, now)
}

func grantAccess(c *gin.Context, access string, life time.Duration, now time.Time) error {
	c.Header("Cache-Control", "no-store")
	c.JSON(http.StatusOK, gin.H{"token": access, "access_token": access, "expires_in": int(life.Seconds()), "issued_at": now.UTC().Format(time.RFC3339)})
	return nil
}
