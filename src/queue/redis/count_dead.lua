-- ARGV: tenant or '', since and until as ZCOUNT takes them. Answers how many are dead.
local key = ARGV[1] == '' and deaths_key or (deaths_key .. ':' .. ARGV[1])
return call('ZCOUNT', key, ARGV[2], ARGV[3])
