-- Reads the usage of tenants. ARGV: tenants, at most a thousand. Returns { their jobs, their bytes }.
return { call('HMGET', tag .. ':tenant_jobs', unpack(ARGV)), call('HMGET', tag .. ':tenant_bytes', unpack(ARGV)) }
