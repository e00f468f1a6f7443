//go:build goexperiment.jsonv2

package trivy

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	java "github.com/aquasecurity/trivy-java-db/pkg/db"
	"github.com/aquasecurity/trivy/pkg/fanal/types"
	mavenversion "github.com/masahiro331/go-mvn-version"
	_ "modernc.org/sqlite" // RPM databases since RHEL 9, and that of jars
	"modernc.org/sqlite/vfs"

	"waybill/scanner"
)

// javaFile is the Java database's name in its folder.
const javaFile = "trivy-java.db"

// javaDatabase is Trivy's Java database: what Maven Central has, by the SHA-1 of each jar. It is asked when an image is
// matched, not when its layers are read, so that a newer one names what the one before did not know.
type javaDatabase struct {
	files *vfs.FS
	db    *sql.DB
}

// openJava opens the database in a folder that may be reached by its descriptor only: SQLite would look for the path
// that a descriptor stands for, so that Go opens the file for it.
func openJava(folder string) (*javaDatabase, error) {
	name, files, err := vfs.New(os.DirFS(folder))
	if err != nil {
		return nil, fmt.Errorf("open Java database: %w", err)
	}
	db, err := sql.Open("sqlite", "file:"+javaFile+"?vfs="+name+"&mode=ro&immutable=1")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open Java database: %w", err), files.Close())
	}
	return &javaDatabase{files, db}, nil
}

func (j *javaDatabase) close() error { return errors.Join(j.db.Close(), j.files.Close()) }

// CheckJava opens the Java database and reads from it.
func (s *Scanner) CheckJava() (scanner.DatabaseInfo, error) {
	m, err := readJavaMetadata(s.java)
	if err != nil {
		return scanner.DatabaseInfo{}, err
	}
	db, err := s.openedJava()
	if err != nil {
		return scanner.DatabaseInfo{}, err
	}
	var one int
	err = db.db.QueryRow(`select 1 from indices i join artifacts a on a.id = i.artifact_id limit 1`).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return scanner.DatabaseInfo{}, errors.New("it names no jar")
	} else if err != nil {
		return scanner.DatabaseInfo{}, fmt.Errorf("it is none of trivy-java-db's, or damaged: %w", err)
	}
	return scanner.DatabaseInfo{Schema: m.Version, UpdatedAt: m.UpdatedAt.UTC()}, nil
}

func readJavaMetadata(folder string) (m java.Metadata, err error) {
	b, err := os.ReadFile(folder + "/metadata.json")
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	switch {
	case err != nil:
		return m, fmt.Errorf("metadata.json: %w", err)
	case m.Version != java.SchemaVersion:
		return m, fmt.Errorf("it is of schema %d; this program reads %d", m.Version, java.SchemaVersion)
	case m.UpdatedAt.IsZero():
		return m, errors.New("metadata.json does not say when it was built")
	}
	return m, nil
}

// openedJava is the folder's database, opened once.
func (s *Scanner) openedJava() (*javaDatabase, error) {
	if s.javaOpened != nil {
		return s.javaOpened, nil
	}
	if s.java == "" {
		return nil, errors.New("this process was given no Java database")
	}
	db, err := openJava(s.java)
	s.javaOpened = db
	return db, err
}

// named gives the jars of a layer that were left unnamed their names, as Trivy's parser of jars would have (package
// jar, resolveArtifact), and drops those that have none. A nil database knows none. found says whether there were such.
func (j *javaDatabase) named(ctx context.Context, apps []types.Application) (_ []types.Application, found bool, err error) {
	for i, app := range apps {
		if app.Type != types.Jar || !slices.ContainsFunc(app.Packages, unnamed) {
			continue
		}
		found = true
		if apps[i].Packages, err = j.nameAll(ctx, app.Packages); err != nil {
			return nil, true, err
		}
	}
	return slices.DeleteFunc(apps, func(app types.Application) bool { return app.Type == types.Jar && len(app.Packages) == 0 }), found, nil
}

func (j *javaDatabase) nameAll(ctx context.Context, all types.Packages) (types.Packages, error) {
	var named, kept types.Packages
	for _, p := range all {
		if !unnamed(p) {
			named = append(named, p)
			continue
		}
		if j == nil {
			continue
		}
		p, known, err := j.name(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("look %s up in the Java database: %w", p.FilePath, err)
		}
		if known {
			named = append(named, p)
		}
	}
	for _, p := range named {
		// A licence that the jar's manifest names is nobody's once there are two that it could be of.
		if slices.ContainsFunc(named, func(other types.Package) bool {
			return other.FilePath == p.FilePath && slices.Contains(other.DependsOn, p.Name)
		}) {
			p.Licenses = nil
		}
		if !slices.ContainsFunc(kept, func(other types.Package) bool { return sameJar(p, other) }) {
			kept = append(kept, p)
		}
	}
	for i := range kept {
		kept[i].DependsOn = nil // no jar's package has any; see jars.parse
	}
	return kept, nil
}

// sameJar is what removePackageDuplicates of package jar goes by: 2.17 is 2.17.0.
func sameJar(a, b types.Package) bool {
	if a.Name != b.Name || a.FilePath != b.FilePath {
		return false
	}
	one, _ := mavenversion.NewVersion(a.Version) // it has no errors
	other, _ := mavenversion.NewVersion(b.Version)
	return one.Equal(other)
}

// name is what the database knows of a jar: by its manifest if there is such an artifact, by its checksum, or, if its
// file is called after an artifact and version that are there, by that.
func (j *javaDatabase) name(ctx context.Context, p types.Package) (types.Package, bool, error) {
	sum := strings.TrimPrefix(p.Name, unnamedPrefix)
	manifest, version := p.SrcName, p.SrcVersion
	p.SrcName, p.SrcVersion = "", ""
	if group, artifact, ok := strings.Cut(manifest, ":"); ok && version != "" {
		var one int
		err := j.db.QueryRowContext(ctx, `select 1 from indices i join artifacts a on a.id = i.artifact_id where a.group_id = ? and a.artifact_id = ? limit 1`, group, artifact).Scan(&one)
		if err == nil {
			p.Name, p.Version = manifest, version
			return p, true, nil
		} else if !errors.Is(err, sql.ErrNoRows) {
			return p, false, err
		}
	}
	b, err := hex.DecodeString(sum)
	if err != nil {
		return p, false, err
	}
	var group, artifact string
	err = j.db.QueryRowContext(ctx, `select a.group_id, a.artifact_id, i.version from indices i join artifacts a on a.id = i.artifact_id where i.sha1 = ?`, b).
		Scan(&group, &artifact, &version)
	if err == nil {
		p.Name, p.Version = group+":"+artifact, version
		return p, true, nil
	} else if !errors.Is(err, sql.ErrNoRows) {
		return p, false, err
	}
	artifact, version = fileName(p.FilePath)
	if artifact == "" || version == "" {
		return p, false, nil
	}
	group, err = j.group(ctx, artifact, version)
	p.Name, p.Version = group+":"+artifact, version
	return p, group != "", err
}

// group is that of an artifact of which there is such a version: the one with the most jars. Of several with as many
// Trivy takes any, and this the first by name.
func (j *javaDatabase) group(ctx context.Context, artifact, version string) (group string, err error) {
	err = j.db.QueryRowContext(ctx, `select found.group_id from indices i
		join (select a.id, a.group_id from indices i join artifacts a on a.id = i.artifact_id where a.artifact_id = ? and i.version = ? and i.archive_type = 'jar') found on found.id = i.artifact_id
		group by found.group_id order by count(*) desc, found.group_id limit 1`, artifact, version).Scan(&group)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return group, err
}

// unnamedPrefix begins the name of a jar's package that only a Java database can tell; its checksum follows.
const unnamedPrefix = "sha1:"

func unnamed(p types.Package) bool { return strings.HasPrefix(p.Name, unnamedPrefix) }
