-- Writes a change, if no other was written since the one that it was decided by.
--
-- KEYS[1]  {prefix:registry}
-- ARGV     id of the registry; version and mark of the last known change; version and mark of this change;
--          writes as JSON: [[key, JSON or null], …]; number of changes that the stream keeps
-- Returns  written, behind or gone
local meta, records, changes = KEYS[1] .. ':meta', KEYS[1] .. ':records', KEYS[1] .. ':changes'
local known = redis.call('HMGET', meta, 'id', 'version', 'mark')
if known[1] ~= ARGV[1] then return 'gone' end
if known[2] ~= ARGV[2] or known[3] ~= ARGV[3] then return 'behind' end
local writes = cjson.decode(ARGV[6])
-- Deletions come first. When memory is short, Redis runs a command that frees some, and then the rest of its script.
for _, write in ipairs(writes) do
    if write[2] == cjson.null then redis.call('HDEL', records, write[1]) end
end
for _, write in ipairs(writes) do
    if write[2] ~= cjson.null then redis.call('HSET', records, write[1], write[2]) end
end
redis.call('HSET', meta, 'version', ARGV[4], 'mark', ARGV[5])
redis.call('XADD', changes, 'MAXLEN', '~', ARGV[7], ARGV[4] .. '-0', 'mark', ARGV[5], 'writes', ARGV[6])
redis.call('PUBLISH', KEYS[1] .. ':changed', ARGV[4])
return 'written'
