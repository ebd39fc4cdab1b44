drop table lease;
drop table lease_member;
