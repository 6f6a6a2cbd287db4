-- Says what was changed since a change that is known.
--
-- KEYS[1]  {prefix:registry}
-- ARGV     id of the registry; version and mark of the last change that is known; how many changes at most
-- Answer   same; or gone; or anew: that change isn't among those that are kept; or
--          news, format, and of each change its id, mark and writes
local meta, changes = KEYS[1] .. ':meta', KEYS[1] .. ':changes'
local now = redis.call('HMGET', meta, 'id', 'format', 'version', 'mark')
if now[1] ~= ARGV[1] then return { 'gone' } end
if now[3] == ARGV[2] and now[4] == ARGV[3] then return { 'same' } end
local last = ARGV[2] .. '-0'
local known = redis.call('XRANGE', changes, last, last)[1]
if not known or known[2][2] ~= ARGV[3] then return { 'anew' } end
local answer = { 'news', now[2] }
for _, entry in ipairs(redis.call('XRANGE', changes, '(' .. last, '+', 'COUNT', ARGV[4])) do
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = entry[2][2]
    answer[#answer + 1] = entry[2][4]
end
return answer
