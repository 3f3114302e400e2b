// The arrays of the sequence `seq`, of up to 16.
#define PICK(n) auto n=SEQUENCES<2||seq<1?n##0:seq<2?n##1:seq<3?n##2:seq<4?n##3:seq<5?n##4:seq<6?n##5:seq<7?n##6:seq<8?n##7:seq<9?n##8:seq<10?n##9:seq<11?n##10:seq<12?n##11:seq<13?n##12:seq<14?n##13:seq<15?n##14:n##15;
