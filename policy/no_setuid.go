package policy

import (
	"fmt"
	"slices"
	"strings"

	"waybill/artifact"
)

// setuidExceptions are the parameters of no-setuid.
type setuidExceptions struct {
	Allow        []string `yaml:"allow"`        // patterns of paths
	Capabilities []string `yaml:"capabilities"` // that any file may give, such as cap_net_bind_service
}

// bindNoSetuid: no file runs with more rights than who starts it: setuid, setgid or capabilities.
func bindNoSetuid(with Node, given bool) (check, error) {
	except, err := parameters[setuidExceptions](with, given)
	if err != nil {
		return nil, err
	}
	for i := range except.Allow {
		except.Allow[i] = strings.TrimPrefix(except.Allow[i], "/")
	}
	var allowed uint64
	for i, name := range except.Capabilities {
		bit := slices.Index(capabilityNames, strings.ToLower(name))
		if bit < 0 {
			return nil, with.At("$.capabilities[%d]", i).Errorf("capability %q is not known; want one of capabilities(7), such as cap_net_bind_service", name)
		}
		allowed |= 1 << bit
	}
	return func(img Image) []finding { return except.check(img, allowed) }, checkGlobs(with.At("$.allow"), "path", "a pattern such as usr/bin/su or usr/lib/**", except.Allow)
}

func (x setuidExceptions) check(img Image, allowed uint64) []finding {
	var found []finding
	for _, p := range img.Facts.Notable {
		f := img.Facts.Files[p]
		what := lends(f.File, allowed)
		if what == "" || anyGlob(x.Allow, p) {
			continue
		}
		found = append(found, finding{evidence: []string{p}, message: fmt.Sprintf("/%s is %s (layer %d of %d, owner %d:%d); take that away (chmod a-s, setcap -r) in the step that adds it, or allow its path",
			p, what, f.Layer+1, len(img.Facts.Layers), f.UID, f.GID)})
	}
	return found
}

// lends says what rights a file gives to who runs it; "" when none but allowed ones. Of what is no file the bits mean
// other things.
func lends(f artifact.File, allowed uint64) string {
	if f.Type != artifact.Regular && f.Type != artifact.Hardlink {
		return ""
	}
	var what []string
	if f.Mode&0o4000 != 0 {
		what = append(what, "setuid")
	}
	if f.Mode&0o2000 != 0 {
		what = append(what, "setgid")
	}
	if given := f.Capabilities &^ allowed; given != 0 {
		what = append(what, "of capabilities "+capabilityWords(given))
	}
	return strings.Join(what, ", ")
}

// capabilityNames are capabilities(7) by their number, as linux/capability.h has them.
var capabilityNames = strings.Fields(`cap_chown cap_dac_override cap_dac_read_search cap_fowner cap_fsetid cap_kill cap_setgid cap_setuid cap_setpcap
	cap_linux_immutable cap_net_bind_service cap_net_broadcast cap_net_admin cap_net_raw cap_ipc_lock cap_ipc_owner cap_sys_module cap_sys_rawio cap_sys_chroot
	cap_sys_ptrace cap_sys_pacct cap_sys_admin cap_sys_boot cap_sys_nice cap_sys_resource cap_sys_time cap_sys_tty_config cap_mknod cap_lease cap_audit_write
	cap_audit_control cap_setfcap cap_mac_override cap_mac_admin cap_syslog cap_wake_alarm cap_block_suspend cap_audit_read cap_perfmon cap_bpf cap_checkpoint_restore`)

func capabilityWords(set uint64) string {
	if set>>len(capabilityNames) != 0 {
		return "that cannot be told"
	}
	var words []string
	for bit, name := range capabilityNames {
		if set&(1<<bit) != 0 {
			words = append(words, name)
		}
	}
	return strings.Join(words, " ")
}
