// Command scale fills a data folder's database with as many rows as a large company's registry has: 100,000 repositories,
// 1,000,000 manifests, 10,000,000 blobs. Their bytes do not exist; what is measured is how much slower the others become.
//
//	go run ./bench/scale -data DIR [-part 0.1]
//
// bench/scale.sh serves the folder afterwards and compares it with an empty one.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"waybill/bench/rows"
)

func main() {
	data := flag.String("data", "", "data folder, as waybill serve has it")
	part := flag.Float64("part", 1, "of the rows")
	flag.Parse()
	if err := run(context.Background(), *data, *part); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// statements make the rows; %d is the number of repositories, each of which has ten images and a hundred blobs. Foreign
// keys hold by how the rows are made, and are not checked.
const statements = rows.Unchecked + `;
insert into repositories (name) select 'scale/r' || r from generate_series(1, %[1]d) r;
insert into blobs (digest, size) select 'sha256:' || encode(sha256(int8send(b)), 'hex'), 1000000 + b from generate_series(1, %[1]d::bigint * 100) b;
insert into repository_blobs (repository, digest) select 'scale/r' || (b - 1) / 100 + 1, 'sha256:' || encode(sha256(int8send(b)), 'hex') from generate_series(1, %[1]d::bigint * 100) b;
create temporary table images as select (m - 1) / 10 + 1 as r, m, 'scale/r' || (m - 1) / 10 + 1 as repository, 'sha256:' || encode(sha256(int8send(-m)), 'hex') as digest from generate_series(1, %[1]d::bigint * 10) m;
insert into manifests (repository, digest, media_type, is_image, is_index, config, subject, body, pushed_by)
	select repository, digest, 'application/vnd.oci.image.manifest.v1+json', m %% 10 <> 0, false, 'sha256:' || encode(sha256(int8send(m * 10)), 'hex'),
	case when m %% 10 = 0 then 'sha256:' || encode(sha256(int8send(1 - m)), 'hex') end, convert_to(repeat('x', 700), 'UTF8'), 'bench' from images;
insert into manifest_references (repository, manifest, position, digest, kind)
	select repository, images.digest, n, 'sha256:' || encode(sha256(int8send(m * 10 - n)), 'hex'), case n when 0 then 'config' else 'layer' end from images, generate_series(0, 4) n;
insert into tags (repository, name, digest, updated_by) select repository, 'v' || m %% 10, digest, 'bench' from images;
insert into tag_history (repository, name, digest, actor) select repository, 'v' || m %% 10, digest, 'bench' from images;
insert into verdicts (repository, digest, outcome, reasons, policy_hash, policies, reference, actor)
	select repository, digest, 'allow', '[]', digest, '{baseline@1}', 'v' || m %% 10, 'bench' from images;
analyze`

func run(ctx context.Context, data string, part float64) error {
	db, stop, err := rows.Open(ctx, data)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := db.Pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return rows.Run(fmt.Sprintf(statements, int(part*100_000)), func(sql string) (string, error) {
		tag, err := conn.Exec(ctx, sql)
		return tag.String(), err
	})
}
