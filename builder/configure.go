package builder

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/sys/signal"
	"github.com/opencontainers/go-digest"

	"waybill/artifact"
)

// configure evaluates the instructions that only change the config.
func (s *stage) configure(command instructions.Command) error {
	var said string
	switch c := command.(type) {
	case *instructions.EnvCommand:
		said = s.setEnv(c)
	case *instructions.LabelCommand:
		said = s.label(c)
	case *instructions.UserCommand:
		s.config().User, said = c.User, "USER "+c.User
	case *instructions.EntrypointCommand:
		s.config().Entrypoint = s.commandLine(c.ShellDependantCmdLine)
		if !s.cmdSet {
			s.config().Cmd = nil
		}
		said = fmt.Sprintf("ENTRYPOINT %q", s.config().Entrypoint)
	case *instructions.CmdCommand:
		s.config().Cmd, s.cmdSet = s.commandLine(c.ShellDependantCmdLine), true
		s.config().ArgsEscaped = true //nolint:staticcheck // BuildKit sets it
		said = fmt.Sprintf("CMD %q", s.config().Cmd)
	case *instructions.ExposeCommand:
		return s.expose(c)
	case *instructions.VolumeCommand:
		if slices.Contains(c.Volumes, "") {
			return artifact.Errorf(artifact.Invalid, "VOLUME names nothing")
		}
		addAll(&s.config().Volumes, c.Volumes)
		said = fmt.Sprintf("VOLUME %v", c.Volumes)
	case *instructions.StopSignalCommand:
		if _, err := signal.ParseSignal(c.Signal); err != nil {
			return artifact.Errorf(artifact.Invalid, "STOPSIGNAL %.60q is no signal of Linux", c.Signal)
		}
		s.config().StopSignal, said = c.Signal, "STOPSIGNAL "+c.Signal
	case *instructions.ShellCommand:
		s.config().Shell, said = c.Shell, fmt.Sprintf("SHELL %v", c.Shell)
	case *instructions.HealthCheckCommand:
		h := *c.Health
		s.config().Healthcheck, said = &h, fmt.Sprintf("HEALTHCHECK %+v", h)
	case *instructions.OnbuildCommand:
		s.config().OnBuild = append(s.config().OnBuild, c.Expression)
		return nil
	case *instructions.MaintainerCommand:
		s.spec.Author, said = c.Maintainer, "MAINTAINER "+c.Maintainer
	default:
		return artifact.Errorf(artifact.Unsupported, "%s is not offered", command.Name())
	}
	s.history(said, true)
	return nil
}

func (s *stage) setEnv(c *instructions.EnvCommand) string {
	said := "ENV"
	for _, kv := range c.Env {
		s.env[kv.Key] = kv.Value
		said += " " + kv.String()
		entry := kv.Key + "=" + kv.Value
		if i := slices.IndexFunc(s.config().Env, func(v string) bool { return strings.HasPrefix(v, kv.Key+"=") }); i >= 0 {
			s.config().Env[i] = entry
		} else {
			s.config().Env = append(s.config().Env, entry)
		}
	}
	return said
}

func (s *stage) label(c *instructions.LabelCommand) string {
	said := "LABEL"
	if s.config().Labels == nil {
		s.config().Labels = map[string]string{}
	}
	for _, kv := range c.Labels {
		s.config().Labels[kv.Key] = kv.Value
		said += " " + kv.String()
	}
	return said
}

func (s *stage) commandLine(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	shell := s.config().Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), strings.Join(c.CmdLine, " "))
}

func (s *stage) expose(c *instructions.ExposeCommand) error {
	var all []string
	for _, word := range c.Ports {
		expanded, err := s.expandWords(word)
		if err != nil {
			return err
		}
		for _, text := range expanded {
			ports, err := parsePorts(text)
			if err != nil {
				return err
			}
			all = append(all, ports...)
		}
	}
	addAll(&s.config().ExposedPorts, all)
	s.history(fmt.Sprintf("EXPOSE %v", all), true)
	return nil
}

func (s *stage) expandWords(word string) ([]string, error) {
	words, err := s.target.lex().ProcessWords(word, environ(s.env))
	if err != nil {
		return nil, artifact.Errorf(artifact.Invalid, "%.200q: %v", word, err)
	}
	return words, nil
}

func addAll(set *map[string]struct{}, words []string) {
	if *set == nil {
		*set = map[string]struct{}{}
	}
	for _, w := range words {
		(*set)[w] = struct{}{}
	}
}

// parsePorts reads [[IP:]HOSTPORT[-HOSTPORT]:]PORT[-PORT][/PROTOCOL], of which only what is in the container counts.
func parsePorts(text string) ([]string, error) {
	invalid := artifact.Errorf(artifact.Invalid, "port %.60q: want PORT, PORT-PORT or PORT/PROTOCOL with tcp, udp or sctp", text)
	spec, hostPorts := text, ""
	if i := strings.LastIndexByte(spec, ':'); i >= 0 {
		host := spec[:i]
		spec = spec[i+1:]
		j := strings.LastIndexByte(host, ':')
		if j > 0 && net.ParseIP(strings.Trim(host[:j], "[]")) == nil {
			return nil, invalid
		}
		hostPorts = host[j+1:]
	}
	ports, protocol, _ := strings.Cut(spec, "/")
	if protocol = strings.ToLower(protocol); protocol == "" {
		protocol = "tcp"
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
		return nil, invalid
	}
	first, last, ok := portRange(ports)
	if !ok {
		return nil, invalid
	}
	if hostPorts != "" {
		if from, to, ok := portRange(hostPorts); !ok || first != last && to-from != last-first {
			return nil, invalid
		}
	}
	var all []string
	for port := first; port <= last; port++ {
		all = append(all, strconv.FormatUint(port, 10)+"/"+protocol)
	}
	return all, nil
}

func portRange(text string) (first, last uint64, ok bool) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	first, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return 0, 0, false
	}
	last, err = strconv.ParseUint(high, 10, 16)
	return first, last, err == nil && first <= last
}

// historyOfCopy is what BuildKit says of a COPY or ADD.
func historyOfCopy(command instructions.Command, source instructions.SourcesAndDest, opt copyOptions) string {
	words := []string{strings.ToUpper(command.Name())}
	if opt.parents {
		words = append(words, "--parents")
	}
	if opt.chown != "" {
		words = append(words, "--chown="+opt.chown)
	}
	if opt.chmod != "" {
		words = append(words, "--chmod="+opt.chmod)
	}
	words = append(words, source.SourcePaths...)
	for _, heredoc := range source.SourceContents {
		words = append(words, "<<"+heredoc.Path)
	}
	return strings.Join(append(words, source.DestPath), " ")
}

func ociDigest(h v1.Hash) digest.Digest { return digest.Digest(h.String()) }
