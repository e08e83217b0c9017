-- The file mapped while it grows, sorts, and values that malloc maps however much it was given back before.
pragma mmap_size = 100000000;
pragma journal_mode = wal;
create table t(a integer primary key, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 12000)
insert into t select x, hex(randomblob(x % 300)) from c;
create index i on t(b);
select count(*) from (select b from t order by b desc);
select length(group_concat(b)) from t;
with recursive c(x) as (select 1 union all select x + 1 from c where x < 8)
select sum(length(hex(zeroblob(17000000 + x * 5000)))) from c;
pragma shrink_memory;
drop table t;
vacuum;
