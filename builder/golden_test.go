package builder

// golden is what TestReproducible's folder builds to on every machine.
const golden = "sha256:135d9f0c193ccbbb58f45ea25f4b468c8ba74684744b81ae11009dd74fe465dd"
