-- Returns the changes that were written after a known one.
--
-- KEYS[1]  {prefix:registry}
-- ARGV     id of the registry; version and mark of the last known change; maximum number of changes
-- Returns  same: there are none; or gone; or trimmed: the stream doesn't hold the known change any more; or
--          changes, format, and the id, mark and writes of each change
local meta, changes = KEYS[1] .. ':meta', KEYS[1] .. ':changes'
local now = redis.call('HMGET', meta, 'id', 'format', 'version', 'mark')
if now[1] ~= ARGV[1] then return { 'gone' } end
if now[3] == ARGV[2] and now[4] == ARGV[3] then return { 'same' } end
local last = ARGV[2] .. '-0'
local known = redis.call('XRANGE', changes, last, last)[1]
if not known or known[2][2] ~= ARGV[3] then return { 'trimmed' } end
local answer = { 'changes', now[2] }
for _, entry in ipairs(redis.call('XRANGE', changes, '(' .. last, '+', 'COUNT', ARGV[4])) do
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = entry[2][2]
    answer[#answer + 1] = entry[2][4]
end
return answer
