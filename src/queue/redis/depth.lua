-- Counts the jobs of the shard by state. Returns { ready, delayed, leased, dead }.
local jobs = totals()
local delayed = tonumber(call('HGET', tag .. ':counts', 'delayed') or '0') or 0
local leased = call('ZCARD', leases_key)
return { math.max(jobs - delayed - leased, 0), delayed, leased, call('ZCARD', deaths_key) }
